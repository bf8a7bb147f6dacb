#
# Licensed to the Apache Software Foundation (ASF) under one or more
# contributor license agreements.  See the NOTICE file distributed with
# this work for additional information regarding copyright ownership.
# The ASF licenses this file to You under the Apache License, Version 2.0
# (the "License"); you may not use this file except in compliance with
# the License.  You may obtain a copy of the License at
#
#    http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
#

"""Mutants of a small module instead of Beam's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tools import mutants
from tools.layout import here

_MODULE = '''
def double(number):
  return 2 * number
'''
_TEST = '''
import unittest
from apache_beam import small

class SmallTest(unittest.TestCase):
  def test_double(self):
    self.assertEqual(4, small.double(2))
'''
_FORK = '''
import json, os, sys
from tools import mutants
os.chdir(sys.argv[1])
sys.path.insert(0, sys.argv[1])
print(json.dumps([
    mutants._fork('small', source, ['apache_beam/small_test.py'], 2)
    for source in json.loads(sys.argv[2])]))
'''


def test_outcomes(tmp_path: Path):
  folder = tmp_path / 'apache_beam'
  folder.mkdir()
  (folder / '__init__.py').touch()
  (folder / 'small.py').write_text(_MODULE)
  (folder / 'small_test.py').write_text(_TEST)
  sources = [
      _MODULE,
      _MODULE.replace('2 *', '3 *'),
      # Nothing that the tests notice.
      _MODULE.replace('2 *', '2 **'),
      _MODULE.replace('return', 'while True:'),
      _MODULE.replace('return', 'return return'),
  ]
  done = subprocess.run(
      [*(sys.executable, '-c', _FORK, tmp_path, json.dumps(sources))],
      cwd=here().root,
      check=True,
      stdout=subprocess.PIPE,
      text=True)
  assert json.loads(
      done.stdout) == ['survived', 'killed', 'survived', 'timeout', 'killed']
  # The module is as it was.
  assert (folder / 'small.py').read_text() == _MODULE


def test_types_and_the_decorators_of_classes_are_left_out():
  source = (
      '@dataclass(slots=True)\n'
      'class A:\n'
      '  a: int | None = 1\n'
      '  @property\n'
      '  def b(self, c: int | None) -> int | None:\n'
      '    return c\n')
  left_out = mutants._positions_left_out(source)
  texts = [
      source.splitlines()[line - 1][start:end]
      for (line, start), (_, end) in left_out
  ]
  assert sorted(texts) == ['dataclass(slots=True)'] + 3 * ['int | None']


@pytest.mark.parametrize('killed, status', [(9, 0), (8, 1)])
def test_the_status_is_that_of_the_share(
    monkeypatch: pytest.MonkeyPatch, capsys, killed: int, status: int):
  survivors = ['1: a  ->  b'] * (10 - killed)
  monkeypatch.setattr(
      mutants,
      'count',
      lambda layout, module, *_: mutants.Count(module, 10, killed, survivors))
  monkeypatch.setattr(mutants.servers, 'python_of', lambda *_: None)
  assert mutants.main(['padding/cut']) == status
  printed = capsys.readouterr().out
  assert f'{killed}0%' in printed
  assert printed.count('1: a  ->  b') == 10 - killed


def test_each_module_has_tests():
  source = here().beam / 'sdks' / 'python'
  for module in mutants.MODULES:
    for name in (f'apache_beam/{module}.py', *mutants.test_files(module)):
      assert (source / name).is_file(), name
