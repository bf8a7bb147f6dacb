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

"""The files of the series: one mail per pull request, and the added files.

A folder of `patches/` is a track, with its mails and their order in `series`.
A mail holds the text of a pull request and its hunks to files
that exist before it. The files that it adds stand in `sdks/`, in the text
that the whole series gives them; the trailers `Adds:` name their owner. They
are written by `export` and are no part of the commit message.
"""

import dataclasses
import re
import tempfile
from pathlib import Path

from tools.layout import Layout
from tools.layout import ToolError
from tools.series import git

ADDS = 'Adds: '
# The folders of patches/, in the order in which they would be sent.
TRACKS = (
    'repairs', 'smart_bucketing', 'iterative_inference', 'tools_and_examples')
REPAIRS = TRACKS[0]


@dataclasses.dataclass(frozen=True)
class PullRequest:
  """One mail of the series.

  Attributes:
    name: the file's name in patches/TRACK/, without its suffix.
    text: the whole file.
    track: the folder that it is in.
  """
  name: str
  text: str
  track: str = ''

  @property
  def head(self) -> str:
    """Headers and message, up to the first hunk."""
    return self.text[:self._diff_start()]

  @property
  def diff(self) -> str:
    return self.text[self._diff_start():]

  @property
  def subject(self) -> str:
    return re.search(r'^Subject: (.*(?:\n .*)*)', self.text,
                     re.MULTILINE).group(1).replace('\n', '')

  @property
  def body(self) -> str:
    """The text of the pull request, with its trailers."""
    return self.head.partition('\n\n')[2].strip('\n')

  @property
  def prose(self) -> str:
    """The text of the pull request, without its trailers."""
    keys = '|'.join(re.escape(key) for key in ('Adds', *self.trailers()))
    return re.sub(rf'^(?:{keys}):.*$', '', self.body, flags=re.MULTILINE)

  @property
  def adds(self) -> list[str]:
    return re.findall(rf'^{ADDS}(.+)$', self.head, re.MULTILINE)

  @property
  def file_diffs(self) -> dict[str, str]:
    """The hunks, by the path of the file that they change."""
    parts = re.split(r'^(?=diff --git )', self.diff, flags=re.MULTILINE)[1:]
    # The path stands there twice, so that one with spaces is clear too.
    paths = [re.match(r'diff --git a/(.+) b/\1\n', part) for part in parts]
    if None in paths:
      raise ToolError(
          f'{self.name} renames a file or has one with an odd name.')
    return {path.group(1): part for path, part in zip(paths, parts)}

  def trailers(self) -> dict[str, str]:
    lines = git.out(
        Path.cwd(),
        'interpret-trailers',
        '--parse',
        stdin=self.head.partition('Subject: ')[2])
    return dict(line.split(': ', 1) for line in lines.splitlines())

  def without_adds(self) -> str:
    return re.sub(rf'^{ADDS}.*\n', '', self.head, flags=re.MULTILINE)

  def _diff_start(self) -> int:
    match = re.search(r'^diff --git ', self.text, re.MULTILINE)
    return match.start() if match else len(self.text)


def changed_lines(diff: str) -> int:
  """Lines that hunks add or remove."""
  return len(re.findall(r'^[+-]', diff.partition('\n@@')[2], re.MULTILINE))


def with_adds(mail: str, adds: list[str]) -> str:
  """Puts the trailers `Adds:` behind the message of a mail."""
  pr = PullRequest('', mail)
  message = pr.head.rstrip('\n')
  lines = ''.join(f'\n{ADDS}{path}' for path in adds)
  return message + lines + pr.head[len(message):] + pr.diff


def files(layout: Layout) -> list[Path]:
  """The files of patches/ that `export` writes."""
  return sorted(
      [*layout.patches.glob('*/series'), *layout.patches.glob('**/*.patch')])


def read_series(layout: Layout) -> list[PullRequest]:
  """The pull requests, track by track, in the order of each `series`.

  Raises:
    ToolError: if a `series` and its folder do not name the same mails, or a
      mail is in no track.
  """
  stray = [
      path.relative_to(layout.root).as_posix() for path in files(layout)
      if path.parent.parent != layout.patches or path.parent.name not in TRACKS
  ]
  if stray:
    raise ToolError(
        f'These files are in none of the folders {", ".join(TRACKS)} of '
        f'patches/: {", ".join(stray)}.')
  return [pr for track in TRACKS for pr in _read_track(layout.patches / track)]


def _read_track(folder: Path) -> list[PullRequest]:
  order = folder / 'series'
  present = {path.name for path in folder.glob('*.patch')}
  if not present and not order.is_file():
    return []
  if not order.is_file():
    raise ToolError(f'{order} does not exist; it names the patches in order.')
  listed = order.read_text(encoding='utf-8').split()
  if len(set(listed)) != len(listed) or set(listed) != present:
    odd = sorted(set(listed) ^ present) or sorted(
        name for name in listed if listed.count(name) > 1)
    raise ToolError(
        f'patches/{folder.name}/series must name each file beside it once; see '
        f'to: {", ".join(odd)}.')
  return [read(folder / name) for name in listed]


def read(path: Path) -> PullRequest:
  text = path.read_bytes().decode(*git.BYTES)
  if not re.search('^Subject: ', text, re.MULTILINE):
    raise ToolError(f'{path} is no mail: it has no line `Subject:`.')
  return PullRequest(path.stem, text, path.parent.name)


def owners(series: list[PullRequest]) -> dict[str, PullRequest]:
  """Maps each added file to the pull request that owns it.

  Raises:
    ToolError: if two of them add the same file, or one adds it elsewhere.
  """
  found: dict[str, PullRequest] = {}
  for pr in series:
    for path in pr.adds:
      if not path.startswith('sdks/') or '..' in path.split('/'):
        raise ToolError(f'{pr.name} adds {path}, which is not under sdks/.')
      if path in found:
        raise ToolError(
            f'{path} is added by two pull requests, {found[path].name} and '
            f'{pr.name}: the later one must carry hunks to it instead.')
      found[path] = pr
  return found


def added_text(layout: Layout, path: str, pr: PullRequest) -> str:
  """The final text of a file that a pull request adds."""
  if not (layout.root / path).is_file():
    raise ToolError(
        f'{pr.name} adds {path}, which does not exist. Export the series again '
        'or remove the trailer.')
  return (layout.root / path).read_bytes().decode(*git.BYTES)


def whole_mails(layout: Layout, series: list[PullRequest]) -> list[str]:
  """The mails with the added files in them, as `git am` takes them.

  An added file has in its own mail the text from before the later hunks: they
  are taken back out of the final text, last one first.
  """
  owner = owners(series)
  mails: list[str] = []
  with tempfile.TemporaryDirectory() as tmp:
    scratch = Path(tmp)
    for path, pr in owner.items():
      (scratch / path).parent.mkdir(parents=True, exist_ok=True)
      text = added_text(layout, path, pr)
      (scratch / path).write_bytes(text.encode(*git.BYTES))
    for pr in reversed(series):
      _take_back(scratch, pr, owner)
      mails.append(_whole(scratch, pr))
  return mails[::-1]


def _take_back(scratch: Path, pr: PullRequest, owner: dict) -> None:
  for path, diff in pr.file_diffs.items():
    if path in owner:
      done = git.run(scratch, 'apply', '-R', stdin=diff, check=False)
      if done.returncode:
        raise ToolError(
            f'{path} in its final text does not hold the hunks of {pr.name}. '
            f'Was it edited by hand? Edit it in build/beam and export.\n'
            f'{done.stderr.strip()}')


def _whole(scratch: Path, pr: PullRequest) -> str:
  return pr.without_adds() + pr.diff + ''.join(
      _new_file(path, (scratch / path).read_bytes().decode(*git.BYTES))
      for path in pr.adds)


def _new_file(path: str, text: str) -> str:
  """The diff that makes a file, in git's form."""
  head = f'diff --git a/{path} b/{path}\nnew file mode 100644\n'
  if not text:
    return head + 'index 0000000..e69de29\n'
  lines = text.split('\n')
  ended = lines[-1] == ''
  lines = lines[:-1] if ended else lines
  return (
      f'{head}--- /dev/null\n+++ b/{path}\n@@ -0,0 +1,{len(lines)} @@\n' +
      ''.join(f'+{line}\n' for line in lines) +
      ('' if ended else '\\ No newline at end of file\n'))
