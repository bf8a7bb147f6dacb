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

"""Rules of this repository that no tool of the series checks."""

import ast
import re
from pathlib import Path

import pytest
import tomllib
from tools.layout import here
from tools.series import git
from tools.series import report

_ROOT = here().root
# Cut in two, so that this file does not name them.
_HOSTS = [
    'py' + 'pi.org', 'python' + 'hosted', 'proxy.' + 'golang', 'npm' + 'js'
]
_MACHINE_PATHS = ['/ro' + 'ot/', '/wo' + 'rk/', '/ho' + 'me/', '/t' + 'mp/']


def _files(*suffixes: str) -> list[Path]:
  listed = git.out(
      _ROOT, 'ls-files', '--cached', '--others', '--exclude-standard')
  paths = [_ROOT / name for name in listed.splitlines()]
  return [p for p in paths if p.suffix in suffixes or not suffixes]


def test_no_machine_and_no_registry_is_named():
  found = []
  for path in _files():
    if path.name in ('LICENSE', 'NOTICE') or not path.is_file():
      continue
    text = path.read_text(encoding='utf-8')
    found += [(path.name, word) for word in _HOSTS + _MACHINE_PATHS
              if word in text]
  assert not found


def test_files_are_short():
  assert not [
      p.name for p in _files('.py')
      if p.is_file() and len(p.read_text('utf-8').splitlines()) > 500
  ]


def test_design_shows_the_series_as_it_is():
  page = _ROOT / 'design' / 'series.md'
  assert report.table(here()) in page.read_text('utf-8')


_BATCHING = _ROOT / 'sdks/python/apache_beam/transforms/batching'


@pytest.mark.parametrize(
    'path',
    [
        *sorted(
            path for path in (_BATCHING / 'policy').glob('*.py')
            if not path.stem.endswith('_test')),
        *(
            _BATCHING / name for name in (
                'advisor/offline_bound.py', 'advisor/policies.py',
                'arguments.py', 'buffer.py', 'buffer_state.py', 'memory.py',
                'options.py', 'user_functions.py', 'validation.py')),
    ],
    ids=lambda path: path.stem)
def test_policy_imports_nothing_from_beam(path: Path):
  tree = ast.parse(path.read_text('utf-8'))
  modules = []
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      modules += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      modules.append(node.module)
  assert not [
      m for m in modules if m.startswith('apache_beam') and
      not m.startswith('apache_beam.transforms.batching')
  ]


def test_every_requirement_is_pinned_and_locked():
  folder = _ROOT / 'requirements'
  lock = _pins(folder / 'lock.txt')
  assert lock
  for name, version in _pins(folder / 'venv.txt').items():
    assert lock[name] == version


def test_pin_of_upstream_is_whole():
  pin = tomllib.loads((_ROOT / 'upstream.toml').read_text('utf-8'))['upstream']
  assert re.fullmatch(r'[0-9a-f]{64}', pin['sha256'])
  assert re.fullmatch(r'\d+\.\d+\.\d+', pin['version'])


def test_documents_link_to_files_that_exist():
  for document in _files('.md'):
    for target in re.findall(r'\]\(([^)#:]+)\)', document.read_text('utf-8')):
      assert (document.parent / target).exists(), f'{document.name}: {target}'


def _pins(path: Path) -> dict[str, str]:
  lines = [line.partition('#')[0].strip() for line in path.open()]
  pins = [line.split('==') for line in lines if line]
  assert all(len(pin) == 2 for pin in pins), pins
  # Without extras, as in transformers[serving].
  return {
      name.partition('[')[0].lower().replace('_', '-'): version
      for name, version in pins
  }
