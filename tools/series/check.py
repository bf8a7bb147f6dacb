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

"""The rules of the series, checked without building anything."""

import re
import tempfile
from pathlib import Path

from tools.layout import Layout
from tools.layout import ToolError
from tools.series import export
from tools.series import git
from tools.series import pull_request
from tools.series import tree
from tools.series.pull_request import PullRequest

MAX_UPSTREAM_LINES = 60
# Of a repair, without its tests.
MAX_REPAIR_LINES = 150
MIN_TEXT_WORDS = 30
TRAILERS = ('Addresses', 'Upstream-Status')
# What the licence header of every file begins with.
LICENCE = 'Licensed to the Apache Software Foundation (ASF) under one'


def problems(layout: Layout) -> list[str]:
  """Every broken rule, as a line that names the pull request or the file."""
  found: list[str] = []
  try:
    series = pull_request.read_series(layout)
    owner = pull_request.owners(series)
    for pr in series:
      found += _mail_problems(pr, owner)
      found += _size_problems(layout, pr)
    found += _folder_problems(layout, owner)
    found += _applied_problems(layout, series)
  except ToolError as e:
    found.append(str(e))
  return found


def upstream_lines(pr: PullRequest, owner: dict[str, PullRequest]) -> int:
  """Changed lines in files that are upstream's."""
  return sum(
      pull_request.changed_lines(diff) for path, diff in pr.file_diffs.items()
      if path not in owner)


def _mail_problems(pr: PullRequest, owner: dict[str, PullRequest]):
  trailers = pr.trailers()
  for name in TRAILERS:
    if not trailers.get(name):
      yield f'{pr.name}: the message lacks the trailer {name}.'
  if len(pr.subject) > 72 or pr.subject.endswith('.'):
    yield f'{pr.name}: the subject must be at most 72 letters, no full stop.'
  if len(pr.prose.split()) < MIN_TEXT_WORDS:
    yield f'{pr.name}: the message is no pull request text: say what and why.'
  lines = upstream_lines(pr, owner)
  if lines > MAX_UPSTREAM_LINES:
    yield (
        f'{pr.name}: changes {lines} lines of upstream files; at most '
        f'{MAX_UPSTREAM_LINES}: move the logic to a file of its own.')


def is_test(path: str) -> bool:
  return Path(path).stem.endswith('_test') or '/testing/inference/' in path


def code_lines(layout: Layout, pr: PullRequest) -> int:
  """Lines that a pull request changes or adds, without its tests."""
  return sum(
      pull_request.changed_lines(diff)
      for path, diff in pr.file_diffs.items() if not is_test(path)) + sum(
          pull_request.added_text(layout, path, pr).count('\n')
          for path in pr.adds if not is_test(path))


def _size_problems(layout: Layout, pr: PullRequest):
  lines = code_lines(layout, pr)
  if pr.track == pull_request.REPAIRS and lines > MAX_REPAIR_LINES:
    yield (
        f'{pr.name}: a repair has at most {MAX_REPAIR_LINES} lines without its '
        f'tests, this one {lines}.')


def _folder_problems(layout: Layout, owner: dict[str, PullRequest]):
  for path in sorted(layout.sdks.rglob('*')):
    name = path.relative_to(layout.root).as_posix()
    if path.is_dir() or '__pycache__' in path.parts:
      continue
    if name not in owner:
      yield f'{name}: no pull request adds it.'
    elif LICENCE not in path.read_bytes()[:600].decode(*git.BYTES):
      yield f'{name}: lacks the ASF licence header.'


def _applied_problems(layout: Layout, series: list[PullRequest]):
  """Applies the series, and each repair alone, elsewhere."""
  with tempfile.TemporaryDirectory() as tmp:
    elsewhere = Layout(layout.root, beam=Path(tmp) / 'beam')
    head = tree.commit_series(elsewhere)
    files = export.exported_files(elsewhere.beam, head)
    yield from _round_trip_problems(layout, files)
    yield from _repair_problems(elsewhere.beam, head, series)


def _repair_problems(beam: Path, head: str, series: list[PullRequest]):
  """Applies each repair to the release, with what it needs."""
  base = tree.base(beam, head)
  work = beam.with_name('alone')
  git.run(beam, 'worktree', 'add', '-q', '--detach', work, base)
  commits = git.out(beam, 'rev-list', '--reverse', f'{base}..{head}').split()
  for pr, commit in zip(series, commits):
    if pr.track == pull_request.REPAIRS:
      try:
        tree.alone(work, commit)
      except ToolError as e:
        yield str(e)


def _round_trip_problems(layout: Layout, files: dict[str, bytes]):
  """Compares the files with what the applied series would export.

  git accepts a hunk at an offset, but exports it at its place: so a byte of
  difference also stands for an offset.
  """
  for name, text in files.items():
    path = layout.root / name
    if not path.is_file() or path.read_bytes() != text:
      hunk = ' (a hunk at an offset?)' if re.match(
          'patches/.*patch', name) else ''
      yield f'{name}: differs from what apply and export make of it{hunk}.'
