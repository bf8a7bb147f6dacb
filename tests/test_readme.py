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

"""The code of README.md runs and prints what README.md says."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tools.layout import here

_ROOT = here().root
_README = _ROOT / 'README.md'
_BLOCK = re.compile(r'```python\n(.*?)```(?:\n\n```text\n(.*?)```)?', re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Snippet:
  """A piece of code of a page, and what stands below it as its output."""
  page: str
  number: int
  code: str
  printed: str

  def __str__(self):
    return f'{self.page}-{self.number}'


def snippets(*pages: Path) -> list:
  """The Python code of Markdown pages, as parameters of a test."""
  return [
      pytest.param(snippet, id=str(snippet)) for path in pages for snippet in (
          Snippet(path.name, number, code, printed) for number, (
              code,
              printed) in enumerate(_BLOCK.findall(path.read_text('utf-8')), 1))
  ]


def prints_what_stands_below(snippet: Snippet, python=sys.executable) -> None:
  """Runs a snippet by itself in the root of the repository.

  Where nothing stands below it, what it prints differs from run to run.
  """
  done = subprocess.run([python, '-c', snippet.code],
                        cwd=_ROOT,
                        capture_output=True,
                        text=True,
                        check=False)
  assert done.returncode == 0, done.stderr
  # A runner may print results in any order.
  assert not snippet.printed or sorted(done.stdout.splitlines()) == sorted(
      snippet.printed.splitlines()), done.stderr


def test_readme_is_one_screen():
  assert len(_README.read_text('utf-8').splitlines()) <= 80


@pytest.mark.parametrize('snippet', snippets(_README))
def test_the_examples_print_what_stands_below_them(snippet):
  prints_what_stands_below(snippet)


@pytest.mark.parametrize(
    'page', [_README, *sorted((_ROOT / 'docs').glob('*.md'))],
    ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
  gone = []
  for link in re.findall(r'\]\(([^)\s]+)\)', page.read_text('utf-8')):
    path, _, anchor = link.partition('#')
    target = page.parent / path if path else page
    if '://' not in link and not (target.exists() and
                                  (not anchor or anchor in _anchors(target))):
      gone.append(link)
  assert not gone


def _anchors(page: Path) -> list[str]:
  """Of the headings of a page, as GitHub makes them."""
  headings = re.findall(r'^#+ (.*)$', page.read_text('utf-8'), re.MULTILINE)
  return [
      re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-')
      for heading in headings
  ]
