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

"""What is known about build/beam, and when it must be left alone.

`refs/series/exported` is the head that patches/ and sdks/ stand for, and the
setting `series.files` the digest of those files when they last agreed; so the
tool knows what is not exported yet, on either side, and overwrites neither.
"""

import hashlib

from tools.layout import Layout
from tools.layout import ToolError
from tools.series import git
from tools.series import pull_request

BRANCH = 'series'
EXPORTED = 'refs/series/exported'
# The pristine source: where a rebase of the series starts.
BASE = 'refs/series/base'
# The exported head before the last apply: what range-diff compares with.
PREVIOUS = 'refs/series/previous'
# Stands in the setting `series.files` between the digest and a pull request.
PART = ' to '


class UnsavedWork(ToolError):
  """build/beam holds work that a reset would lose."""


def refuse_unsaved(layout: Layout) -> None:
  """Raises UnsavedWork unless all of build/beam can be made again."""
  refuse_unfinished(layout)
  if rev(layout, 'HEAD') == rev(layout, EXPORTED):
    return
  drop = f'git -C {layout.beam} reset --hard {EXPORTED}'
  if PART in setting(layout, 'files'):
    raise UnsavedWork(
        'build/beam has commits on top of a part of the series. Keep them on a '
        'branch, apply the whole series and cherry-pick them onto it:\n'
        f'  git -C {layout.beam} branch kept\n  {drop}\n'
        '  python -m tools.series apply\n'
        f'  git -C {layout.beam} cherry-pick {EXPORTED}..kept')
  raise UnsavedWork(
      'build/beam has commits that are not exported. Run '
      f'`python -m tools.series export` first, or drop them: {drop}')


def refuse_unfinished(layout: Layout) -> None:
  """Raises UnsavedWork unless the branch is checked out and clean."""
  git_dir = layout.beam / '.git'
  if any(
      (git_dir / name).exists() for name in ('rebase-merge', 'rebase-apply')):
    raise UnsavedWork(
        'build/beam is in the middle of a rebase; finish it first.')
  branch = git.run(
      layout.beam, 'symbolic-ref', '--short', '-q', 'HEAD',
      check=False).stdout.strip()
  if branch != BRANCH:
    raise UnsavedWork(
        f'build/beam is on {branch or "no branch"}; check out {BRANCH} first.')
  dirty = git.out(layout.beam, 'status', '--porcelain').splitlines()
  if dirty:
    raise UnsavedWork(
        'build/beam has changes that are not committed; commit them (or git '
        'stash -u) first:\n' + '\n'.join(dirty[:10]))


def digest(layout: Layout) -> str:
  """A hash of what the series is made of."""
  paths = [layout.pin, *pull_request.files(layout)]
  paths += sorted(p for p in layout.sdks.rglob('*') if p.is_file())
  made = hashlib.sha256()
  for path in paths:
    if '__pycache__' not in path.parts:
      made.update(f'{path.relative_to(layout.root)}\0'.encode())
      made.update(hashlib.sha256(path.read_bytes()).digest())
  return made.hexdigest()


def rev(layout: Layout, name: str) -> str:
  """The hash of a revision, or nothing."""
  return git.run(
      layout.beam, 'rev-parse', '--verify', '-q', name,
      check=False).stdout.strip()


def setting(layout: Layout, name: str) -> str:
  return git.run(
      layout.beam, 'config', f'series.{name}', check=False).stdout.strip()


def store(layout: Layout, name: str, value: str) -> None:
  git.run(layout.beam, 'config', f'series.{name}', value)
