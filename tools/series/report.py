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


def table(layout: Layout) -> str:
  """The pull requests with size, tests and state, as a Markdown table.

  Size is the changed lines in upstream's files and the lines of the added
  ones; tests is the number of test methods among those.
  """
  series = pull_request.read_series(layout)
  owner = pull_request.owners(series)
  rows = [['#', 'Pull request', 'Upstream', 'Added', 'Tests', 'State']]
  for number, pr in enumerate(series, 1):
    texts = {p: pull_request.added_text(layout, p, pr) for p in pr.adds}
    tests = sum(
        len(re.findall(r'^  def test_', text, re.MULTILINE))
        for path, text in texts.items() if path.endswith('_test.py'))
    rows.append([
        str(number),
        pr.subject,
        str(check.upstream_lines(pr, owner)),
        str(sum(text.count('\n') for text in texts.values())),
        str(tests),
        pr.trailers().get('Upstream-Status', '?')
    ])
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  lines = [
      '| ' + ' | '.join(cell.ljust(w) for cell, w in zip(row, widths)) + ' |'
      for row in rows
  ]
  lines.insert(1, '|' + '|'.join('-' * (w + 2) for w in widths) + '|')
  return '\n'.join(lines)


def update_readme(layout: Layout) -> None:
  """Puts the table between the marks that README.md has for it, if any."""
  readme = layout.root / 'README.md'
  if not readme.is_file():
    return
  text = readme.read_text(encoding='utf-8')
  head, mark, rest = text.partition('<!-- series -->\n')
  _, end, tail = rest.partition('<!-- /series -->')
  if mark and end:
    readme.write_text(
        f'{head}{mark}\n{table(layout)}\n\n{end}{tail}', encoding='utf-8')


def mbox(layout: Layout, out: Path) -> str:
  """Writes a cover letter and one whole mail per pull request.

  `git am OUT/*.patch` on a Beam checkout of that release gives the tree of
  build/beam; with lines that end in CRLF, `git am --keep-cr`. The cover letter
  is a text for the reader, so `.txt`.

  Raises:
    ToolError: if the folder holds something already.
  """
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise ToolError(f'{out} is not an empty folder; name a new one.')
  pin = upstream.read_pin(layout)
  with tempfile.TemporaryDirectory() as tmp:
    elsewhere = Layout(layout.root, beam=Path(tmp) / 'beam')
    head = tree.commit_series(elsewhere)
    base = tree.base(elsewhere.beam, head)
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
        f'{base}..{head}').splitlines()
    stat = git.out(elsewhere.beam, 'diff', '--stat=76', base, head)
  out.mkdir(parents=True, exist_ok=True)
  letter = out / '0000-cover-letter.txt'
  letter.write_text(
      f'Subject: [PATCH 0/{len(written)}] Batches of similar length for '
      f'models\n\nBase: {pin.package} {pin.version}, folder {pin.prefix}/. '
      'Opt-in by an experiment; without it\nbatches are formed as before. '
      'Apply with git am --keep-cr.'
      f'\n\n{table(layout)}\n\n{stat}\n',
      encoding='utf-8')
  return f'{len(written)} mails and {letter.name} in {out}.'
