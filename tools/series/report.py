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

"""The table of pull requests, and the series as mails for a Beam checkout."""

import re
import tempfile
from pathlib import Path

from tools.layout import Layout
from tools.layout import ToolError
from tools.series import check
from tools.series import git
from tools.series import pull_request
from tools.series import tree
from tools.series import upstream


def table(layout: Layout, track: str | None = None) -> str:
  """The pull requests by track, with size, tests and state, as Markdown tables.

  Size is the changed lines in upstream's files, and the lines that are changed
  or added without tests; tests is the number of test methods of added files.

  Args:
    track: the only one to have; all of them without it.
  """
  series = pull_request.read_series(layout)
  owner = pull_request.owners(series)
  rows: dict[str, list[list[str]]] = {}
  for number, pr in enumerate(series, 1):
    tests = sum(
        len(
            re.findall(
                r'^  def test_',
                pull_request.added_text(layout, path, pr),
                re.MULTILINE)) for path in pr.adds if check.is_test(path))
    rows.setdefault(pr.track, []).append([
        str(number),
        pr.subject,
        str(check.upstream_lines(pr, owner)),
        str(check.code_lines(layout, pr)),
        str(tests),
        pr.trailers().get('Upstream-Status', '?')
    ])
  return '\n\n'.join(
      _table(name, some) for name, some in rows.items()
      if track in (None, name))


def _table(track: str, rows: list[list[str]]) -> str:
  lines, tests = (sum(int(row[i]) for row in rows) for i in (3, 4))
  title = (
      f'**{track.replace("_", " ").capitalize()}** (`patches/{track}`): '
      f'{lines:,} lines without tests, {tests} tests')
  rows = [['#', 'Pull request', 'Upstream', 'Code', 'Tests', 'State'], *rows]
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  lines = [
      '| ' + ' | '.join(cell.ljust(w) for cell, w in zip(row, widths)) + ' |'
      for row in rows
  ]
  lines.insert(1, '|' + '|'.join('-' * (w + 2) for w in widths) + '|')
  return '\n'.join([title, '', *lines])


def update_page(layout: Layout) -> None:
  """Puts the table between the marks that design/series.md has, if any."""
  page = layout.root / 'design' / 'series.md'
  if not page.is_file():
    return
  text = page.read_text(encoding='utf-8')
  head, mark, rest = text.partition('<!-- series -->\n')
  _, end, tail = rest.partition('<!-- /series -->')
  if mark and end:
    page.write_text(
        f'{head}{mark}\n{table(layout)}\n\n{end}{tail}', encoding='utf-8')


def mbox(layout: Layout, out: Path, track: str | None = None) -> str:
  """Writes a cover letter and one whole mail per pull request.

  `git am OUT/*.patch` on a Beam checkout of that release gives the tree of
  build/beam; with lines that end in CRLF, `git am --keep-cr`. The cover letter
  is a text for the reader, so `.txt`.

  Args:
    track: the only one to write, for a checkout that has those before it.

  Raises:
    ToolError: if the folder holds something already.
  """
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise ToolError(f'{out} is not an empty folder; name a new one.')
  pin = upstream.read_pin(layout)
  with tempfile.TemporaryDirectory() as tmp:
    elsewhere = Layout(layout.root, beam=Path(tmp) / 'beam')
    head = tree.commit_series(elsewhere)
    start, end = _range(elsewhere.beam, head, layout, track)
    written = git.out(
        elsewhere.beam,
        'format-patch',
        '--numbered',
        '--zero-commit',
        '--no-signature',
        '--no-renames',
        '--always',
        '-o',
        str(out.resolve()),
        f'{start}..{end}').splitlines()
    stat = git.out(elsewhere.beam, 'diff', '--stat=76', start, end)
  for name in written:
    path = Path(name)
    pr = pull_request.read(path)
    own = re.sub(r'^(?:Track|Needs): .*\n', '', pr.head, flags=re.MULTILINE)
    path.write_bytes((own + pr.diff).encode(*git.BYTES))
  out.mkdir(parents=True, exist_ok=True)
  letter = out / '0000-cover-letter.txt'
  title, text = _cover(layout, track)
  letter.write_text(
      f'Subject: [PATCH 0/{len(written)}] {title}\n\n{text}\n\n'
      f'Base: {pin.package} {pin.version}, folder {pin.prefix}/. Apply with '
      f'git am --keep-cr.\n\n{table(layout, track)}\n\n{stat}\n',
      encoding='utf-8')
  return f'{len(written)} mails and {letter.name} in {out}.'


def _range(beam: Path, head: str, layout: Layout,
           track: str | None) -> tuple[str, str]:
  """The commit before a track, and its last one."""
  base = tree.base(beam, head)
  commits = [
      base, *git.out(beam, 'rev-list', '--reverse', f'{base}..{head}').split()
  ]
  tracks = [pr.track for pr in pull_request.read_series(layout)]
  if track is None:
    return base, head
  if track not in tracks:
    raise ToolError(f'No pull request is in the track {track}.')
  first = tracks.index(track)
  return commits[first], commits[first + tracks.count(track)]


def _cover(layout: Layout, track: str | None) -> tuple[str, str]:
  """The heading and the text of a track's README.md."""
  path = layout.patches / (track or '') / 'README.md'
  if not path.is_file():
    return 'Smart bucketing and iterative inference', 'All tracks.'
  heading, _, text = path.read_text(encoding='utf-8').partition('\n')
  return heading.lstrip('# '), text.strip()
