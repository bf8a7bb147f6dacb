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

"""Which tests a prefix of the series runs."""

import pytest
from tools import prefixes


@pytest.mark.parametrize(
    'line, is_import',
    [
        ('import a.b.c', True),
        ('import a.b.c as c', True),
        ('from a.b.c import D', True),
        ('from a.b import c', True),
        ('from a.b import c as x', True),
        ('from a.b import cc', False),
        ('from a.b.cc import D', False),
        ('import a.b.c_test', False),
    ])
def test_only_imports_of_the_module_itself_count(line, is_import):
  assert prefixes._imports(f'import os\n{line}\n', 'a.b.c') == is_import


def test_runs_what_a_commit_touches_and_what_imports_it(tmp_path, monkeypatch):
  folder = tmp_path / 'sdks' / 'python' / 'a'
  folder.mkdir(parents=True)
  texts = {
      'own_test.py': '',
      'user_test.py': 'from a.touched import x\n',
      'other_test.py': 'import os\n',
  }
  for name, text in texts.items():
    (folder / name).write_text(text)
  names = [f'a/{name}' for name in texts] + ['elsewhere/user_test.py']
  monkeypatch.setattr(prefixes.tree, 'python_files', lambda *_: names)
  paths = [prefixes.Path('a/touched.py'), prefixes.Path('a/own_test.py')]
  assert prefixes._tests_of(
      tmp_path, paths, ['a.touched']) == ['a/own_test.py', 'a/user_test.py']
  assert prefixes._tests_of(tmp_path, paths, []) == ['a/own_test.py']
