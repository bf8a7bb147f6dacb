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

"""Real texts of heavy-tailed length: docstrings of the installed packages."""

import ast
import json
import random
from importlib.util import find_spec
from pathlib import Path

# Pinned ones, so that the texts stay the same.
_PACKAGES = ('numpy', 'pandas', 'scipy', 'sklearn', 'torch', 'transformers')
_FILES_PER_PACKAGE = 150
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def write_sample(count: int, out: Path) -> None:
  """Writes distinct docstrings as JSON Lines, the same for the same packages.

  Args:
    count: how many docstrings.
    out: the file; each line an object with "id" and "text".
  """
  rng = random.Random(0)
  texts: set[str] = set()
  for package in _PACKAGES:
    folder = Path(find_spec(package).origin).parent
    sources = sorted(folder.rglob('*.py'))
    for source in rng.sample(sources, min(_FILES_PER_PACKAGE, len(sources))):
      texts.update(_docstrings(source))
  if len(texts) < count:
    raise ValueError(f'Only {len(texts)} docstrings found; ask for fewer.')
  sample = rng.sample(sorted(texts), count)
  with out.open('w', encoding='utf-8') as file:
    for i, text in enumerate(sample):
      file.write(json.dumps({'id': i, 'text': text}) + '\n')


def _docstrings(source: Path) -> set[str]:
  tree = ast.parse(source.read_text(encoding='utf-8'))
  nodes = (node for node in ast.walk(tree) if isinstance(node, _DOCUMENTED))
  texts = {ast.get_docstring(node) for node in nodes}
  return {text for text in texts if text and text.strip()}
