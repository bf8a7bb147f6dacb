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

"""Makes build/beam: the pristine source and a commit per pull request.

The tree belongs to whoever edits it. The commits are made in a worktree of
their own, build/apply, and build/beam moves to them when all of them exist.
"""

import re
import shutil
import tempfile
from pathlib import Path

from tools.layout import Layout
from tools.layout import ToolError
from tools.series import git
from tools.series import pull_request
from tools.series import state
from tools.series import upstream
from tools.series.pull_request import PullRequest
from tools.series.state import UnsavedWork

__all__ = [
    'UnsavedWork',
    'alone',
    'apply',
    'base',
    'commit_series',
    'finish',
    'python_files'
]

# The head that a reset is to bring; the next run finishes an interrupted one.
_PENDING = 'refs/series/pending'
# What the build leaves in the tree, beside the sources.
_BUILD_OUTPUT = (
    '*.so\n*.c\n*.cpp\n__pycache__/\n*.pyc\n.*_cache/\n.hypothesis/\n')
_AM = (
    'am',
    '--quiet',
    '--keep-cr',
    '--keep-non-patch',
    '--committer-date-is-author-date')


class DoesNotApply(ToolError):
  """A pull request does not apply; build/apply is left in front of it."""


def apply(layout: Layout, to: str | None = None, resume: bool = False) -> str:
  """Makes build/beam hold the series, or its first pull requests.

  Args:
    to: the number (from 1) or the name of the last pull request; the whole
      series without it.
    resume: take over what was finished by hand in build/apply.

  Returns:
    A line that says what was done.

  Raises:
    ToolError: if build/beam holds work that is not exported, or a pull request
      does not apply; the message names it and says how to go on.
  """
  series = pull_request.read_series(layout)
  count = _position(series, to) if to else len(series)
  _open(layout)
  finish(layout)
  state.refuse_unsaved(layout)
  if resume:
    _take_over(layout)
  else:
    digest = state.digest(layout)
    if count < len(series):
      digest += state.PART + series[count - 1].name
    if state.setting(layout, 'files') == digest:
      return f'build/beam is up to date ({count} pull requests).'
    state.store(layout, 'applying', digest)
    _reset(layout, _committed(layout, series, count), digest, exported=True)
  head = state.rev(layout, 'HEAD')
  made = git.out(
      layout.beam, 'rev-list', '--count', f'{base(layout.beam)}..HEAD')
  return (
      f'build/beam holds {made} of {len(series)} pull requests at {head[:12]}.')


def base(beam: Path, head: str = 'HEAD') -> str:
  """The commit of the pristine source below a head."""
  return git.out(beam, 'rev-list', '--first-parent', '--max-parents=0', head)


def python_files(beam: Path, kind: str, pattern: str = '*.py') -> list[str]:
  """Files of a checkout that the series adds (A) or changes (M).

  Returns:
    Their paths below sdks/python.
  """
  return git.out(
      beam,
      'diff',
      '--name-only',
      '--no-renames',
      '--relative=sdks/python',
      f'--diff-filter={kind}',
      base(beam),
      '--',
      pattern).splitlines()


def alone(work: Path, commit: str) -> str:
  """A repair on the release and the repairs alone that it says to need.

  Args:
    work: a clean worktree, which is left at the commit that is made.
    commit: the repair, as a commit of the series.

  Raises:
    ToolError: if it does not apply there, or a trailer `Needs:` names no commit
      before it.
  """
  title = git.out(work, 'log', '-1', '--format=%s', commit)
  pristine = base(work, commit)
  before = dict(
      line.split()[::-1] for line in git.out(
          work, 'log', '--format=%H %f', f'{pristine}..{commit}^').splitlines())
  names = git.out(
      work, 'log', '-1', '--format=%(trailers:key=Needs,valueonly)',
      commit).split()
  unknown = [name for name in names if name not in before]
  if unknown:
    raise ToolError(f'{title}: needs {unknown[0]}, which is not before it.')
  git.run(work, 'checkout', '-q', '--detach', pristine)
  for picked in [*(before[name] for name in names), commit]:
    done = git.run(work, 'cherry-pick', picked, check=False)
    if done.returncode:
      files = git.out(work, 'diff', '--name-only', '--diff-filter=U')
      git.run(work, 'cherry-pick', '--abort')
      raise ToolError(
          f'{title}: does not apply to the release alone, see to '
          f'{", ".join(files.split())}. Name the repairs that it needs in '
          'trailers `Needs:`, each by the name of its patch.')
  return git.out(work, 'rev-parse', 'HEAD')


def commit_series(layout: Layout, count: int | None = None) -> str:
  """Commits the first mails onto the pristine source, in build/apply.

  Returns:
    The last commit; what is checked out in build/beam stays.
  """
  series = pull_request.read_series(layout)
  mails = pull_request.whole_mails(layout, series)[:count]
  _open(layout)
  pristine = upstream.commit(layout)
  work = _worktree(layout)
  _remove_worktree(layout)
  git.run(layout.beam, 'worktree', 'add', '-q', '--detach', work, pristine)
  with tempfile.TemporaryDirectory() as tmp:
    paths = [Path(tmp) / f'{i:04}.patch' for i in range(len(mails))]
    for path, mail in zip(paths, mails):
      path.write_bytes(mail.encode(*git.BYTES))
    if paths:
      done = git.run(work, *_AM, *paths, check=False)
      if done.returncode:
        raise DoesNotApply(_conflict(work, series, done.stdout + done.stderr))
  head = git.out(work, 'rev-parse', 'HEAD')
  _remove_worktree(layout)
  return head


def finish(layout: Layout) -> None:
  """Ends the reset that an interrupted run began."""
  pending = state.rev(layout, _PENDING)
  if not pending:
    return
  head = state.rev(layout, 'HEAD')
  # Whoever has committed since then wants that and not the reset.
  if head in (pending, state.setting(layout, 'pending-from')):
    old = state.rev(layout, state.EXPORTED)
    if old and old != pending:
      git.run(layout.beam, 'update-ref', state.PREVIOUS, old)
    (layout.beam / '.git' / 'index.lock').unlink(missing_ok=True)
    git.run(layout.beam, 'reset', '--quiet', '--hard', pending)
    git.run(layout.beam, 'update-ref', state.BASE, base(layout.beam))
    state.store(layout, 'files', state.setting(layout, 'pending-files'))
    if state.setting(layout, 'pending-exported'):
      git.run(layout.beam, 'update-ref', state.EXPORTED, pending)
  git.run(layout.beam, 'update-ref', '-d', _PENDING)


def _committed(layout: Layout, series: list[PullRequest], count: int) -> str:
  try:
    return commit_series(layout, count)
  except DoesNotApply as e:
    if count < len(series):
      # The rest of the series would be missing from what --continue takes.
      _remove_worktree(layout)
      raise ToolError(f'{e}\nTo mend it, run `apply` without --to.') from e
    raise ToolError(
        f'{e}\nTo go on, in {_worktree(layout)}:\n'
        '  git am --show-current-patch=diff | git apply --3way\n'
        '  (where git lacks the old file: git apply --reject instead)\n'
        '  (mend the conflicts; git add the files)\n'
        '  git am --continue\n'
        'and so on to the end of the series; then\n'
        '  python -m tools.series apply --continue\n'
        '  python -m tools.series export\n'
        'A plain `apply` throws that work away and starts again.') from e


def _conflict(work: Path, series: list[PullRequest], said: str) -> str:
  """Names the pull request, the file and the hunk that do not apply."""
  done = git.out(work, 'rev-list', '--count', f'{base(work)}..HEAD')
  pr = series[int(done)]
  where = []
  for path, line in re.findall(r'patch failed: (.+):(\d+)\n', said):
    hunks = re.findall(r'^@@ .*$', pr.file_diffs.get(path, ''), re.MULTILINE)
    for number, hunk in enumerate(hunks, 1):
      if re.match(rf'@@ -{line}[, ]', hunk):
        where.append(f'  {path}, hunk {number} of {len(hunks)}: {hunk}')
  return f'{pr.name} does not apply.\n' + '\n'.join(where or [said.strip()])


def _take_over(layout: Layout) -> None:
  """Moves build/beam to what was finished by hand in build/apply."""
  work = _worktree(layout)
  git_dir = git.run(
      work.parent, '-C', work, 'rev-parse', '--absolute-git-dir',
      check=False).stdout.strip()
  if not git_dir or (Path(git_dir) / 'rebase-apply').exists():
    raise ToolError(
        'Nothing to continue: build/apply does not exist, or its `git am` is '
        'not finished.')
  if git.out(work, 'status', '--porcelain'):
    raise ToolError(f'{work} holds changes that are not committed.')
  head = git.out(work, 'rev-parse', 'HEAD')
  if head == base(work):
    raise ToolError(
        'Nothing to continue: build/apply holds no pull request; was its `git '
        'am` aborted? Run `apply` again.')
  # The files as they were then: export must see what was edited meanwhile.
  _reset(layout, head, state.setting(layout, 'applying'), exported=False)
  _remove_worktree(layout)


def _reset(layout: Layout, head: str, digest: str, exported: bool) -> None:
  """Moves build/beam to a head; survives an interruption at any point."""
  state.store(layout, 'pending-files', digest)
  state.store(layout, 'pending-exported', 'yes' if exported else '')
  state.store(layout, 'pending-from', state.rev(layout, 'HEAD'))
  git.run(layout.beam, 'update-ref', _PENDING, head)
  finish(layout)


def _open(layout: Layout) -> None:
  """Makes an empty repository, whole or not at all."""
  if (layout.beam / '.git').exists():
    return
  if layout.beam.exists() and any(layout.beam.iterdir()):
    raise UnsavedWork(
        f'{layout.beam} is no git repository; move it away first.')
  layout.beam.parent.mkdir(parents=True, exist_ok=True)
  partial = layout.beam.with_name(layout.beam.name + '.partial')
  shutil.rmtree(partial, ignore_errors=True)
  # Without a template: a machine's own hooks have no place in the commits.
  git.run(
      layout.beam.parent,
      *('init', '-q', '--template=', '-b', state.BRANCH, partial))
  # Whatever the user has set: files with CRLF must stay as they are.
  git.run(partial, 'config', 'core.autocrlf', 'false')
  (partial / '.git' / 'info').mkdir(exist_ok=True)
  (partial / '.git' / 'info' / 'exclude').write_text(_BUILD_OUTPUT)
  partial.rename(layout.beam)


def _position(series: list[PullRequest], to: str) -> int:
  for number, pr in enumerate(series, 1):
    if to in (str(number), pr.name):
      return number
  raise ToolError(
      f'--to {to}: give a number from 1 to {len(series)} or one of '
      f'{", ".join(pr.name for pr in series)}.')


def _worktree(layout: Layout) -> Path:
  return layout.beam.with_name('apply')


def _remove_worktree(layout: Layout) -> None:
  shutil.rmtree(_worktree(layout), ignore_errors=True)
  # git keeps a worktree locked while it makes it, so also after a kill.
  git.run(layout.beam, 'worktree', 'unlock', _worktree(layout), check=False)
  git.run(layout.beam, 'worktree', 'prune')
