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

"""The notebooks of the guide run as they stand, and are kept without outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from tools.layout import here

_ROOT = here().root
_NOTEBOOKS = sorted((_ROOT / 'docs' / 'notebooks').glob('*.ipynb'))


def test_there_is_one_for_each_phase():
  assert [path.stem
          for path in _NOTEBOOKS] == ['batching_by_length', 'partial_results']


@pytest.mark.parametrize('path', _NOTEBOOKS, ids=lambda path: path.stem)
def test_no_outputs_are_kept(path: Path):
  cells = nbformat.read(path, as_version=4).cells
  code = [cell for cell in cells if cell.cell_type == 'code']
  assert code
  assert not [cell for cell in code if cell.outputs or cell.execution_count]


@pytest.mark.parametrize('path', _NOTEBOOKS, ids=lambda path: path.stem)
def test_each_runs_and_ends_with_what_was_saved(path: Path):
  notebook = nbformat.read(path, as_version=4)
  client = NotebookClient(
      notebook, timeout=300, resources={'metadata': {
          'path': str(_ROOT)
      }})
  client.execute()
  shown = [
      output.data for cell in notebook.cells if cell.cell_type == 'code'
      for output in cell.outputs
      if output.output_type in ('display_data', 'execute_result')
  ]
  assert 'text/html' in shown[-2] and 'image/png' in shown[-1]
