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

"""Writes the commits of build/beam to patches/ and sdks/."""

import os
import shutil
import tempfile
from pathlib import Path

from tools.layout import Layout
from tools.layout import ToolError
from tools.series import git
from tools.series import pull_request
from tools.series import state
from tools.series import tree

_FORMAT = (
    'format-patch',
    '--stdout',
    '--always',
    '--zero-commit',
    '--no-signature',
    '--no-stat',
    '--full-index',
    '--no-numbered',
    '--keep-subject',
    '--no-renames',
    '--no-encode-email-headers')


def export(layout: Layout) -> str:
  """Writes the commits of build/beam to patches/ and sdks/.

  Raises:
    ToolError: if build/beam is in the middle of something or cannot be told in
      patches, or those files were changed since they and build/beam agreed.
  """
  if not layout.beam.exists() or not state.rev(layout, 'HEAD'):
    raise ToolError('There is no build/beam to export; run `apply` first.')
  tree.finish(layout)
  state.refuse_unfinished(layout)
  known = state.setting(layout, 'files')
  if state.PART in known:
    raise ToolError(
        'build/beam holds only a part of the series; run `apply` without --to '
        'before `export`, or the other pull requests would be lost.')
  files = exported_files(layout.beam)
  _refuse_edited(layout, files, agreed=known == state.digest(layout))
  _prove(layout, files)
  _write(layout, files)
  git.run(layout.beam, 'update-ref', state.EXPORTED, 'HEAD')
  state.store(layout, 'files', state.digest(layout))
  return f'Exported {sum(name.endswith(".patch") for name in files)} patches.'


def exported_files(beam: Path, head: str = 'HEAD') -> dict[str, bytes]:
  """The text of every file of patches/ and sdks/, by its path in the root."""
  files: dict[str, bytes] = {}
  names: dict[str, list[str]] = {}
  order = list(pull_request.TRACKS)
  added: list[str] = []
  commits = git.out(
      beam,
      'rev-list',
      '--reverse',
      '--parents',
      f'{tree.base(beam, head)}..{head}')
  for line in commits.splitlines():
    commit, *parents = line.split()
    if len(parents) != 1:
      raise ToolError(f'build/beam must be a line of commits; {commit} merges.')
    adds = _added(beam, commit)
    added += adds
    mail = git.run(beam, *_FORMAT, '--diff-filter=a', '-1', commit).stdout
    name = git.out(beam, 'log', '-1', '--format=%f', commit) + '.patch'
    if any(name in some for some in names.values()):
      raise ToolError(f'Two commits of build/beam have the subject of {name}.')
    track = _track(beam, commit, order)
    names.setdefault(track, []).append(name)
    mail = pull_request.with_adds(mail, adds)
    files[f'patches/{track}/{name}'] = mail.encode(*git.BYTES)
  for track, some in names.items():
    files[f'patches/{track}/series'] = ''.join(f'{name}\n'
                                               for name in some).encode()
  for path in added:
    files[path] = git.run(beam, 'show',
                          f'{head}:{path}').stdout.encode(*git.BYTES)
  return files


def _track(beam: Path, commit: str, order: list[str]) -> str:
  """The track of a commit.

  Args:
    order: the tracks that may come now; those before it are removed.
  """
  track = git.out(
      beam, 'log', '-1', '--format=%(trailers:key=Track,valueonly)', commit)
  if track not in order:
    this = git.out(beam, 'log', '-1', '--format=%h (%s)', commit)
    raise ToolError(
        f'{this} has the trailer `Track: {track}`; expected one of '
        f'{", ".join(order)}, in this order from the first commit on.')
  del order[:order.index(track)]
  return track


def _added(beam: Path, commit: str) -> list[str]:
  """The files that a commit adds; refuses what the series cannot hold."""
  raw = git.out(
      beam,
      'diff-tree',
      '-r',
      '--no-renames',
      '--no-commit-id',
      '--raw',
      '--numstat',
      commit).splitlines()
  this = git.out(beam, 'log', '-1', '--format=%h (%s)', commit)
  if not raw:
    raise ToolError(f'{this} changes nothing; drop it.')
  adds = []
  for line in raw:
    meta, *_, path = line.split('\t')
    if path.startswith('"'):
      raise ToolError(f'{this} changes {path}; give it a plainer name.')
    if line.startswith('-\t-\t'):
      raise ToolError(f'{this} changes {path}, which is binary.')
    if not line.startswith(':'):
      continue
    _, mode, _, _, status = meta.split()
    if status not in ('A', 'M'):
      raise ToolError(
          f'{this} deletes or replaces {path}; the series only adds files and '
          'changes their lines.')
    if status == 'A':
      if mode != '100644' or not path.startswith('sdks/'):
        raise ToolError(
            f'{this} adds {path} with mode {mode}; the series adds plain '
            'files (100644) under sdks/ only.')
      adds.append(path)
  return adds


def _refuse_edited(
    layout: Layout, files: dict[str, bytes], agreed: bool) -> None:
  """Raises ToolError if export would overwrite what it did not write.

  A file is export's own if it has the text of the last export, or already the
  new one, from an interrupted run. If patches/ and sdks/ agree with build/beam
  as a whole, only a file that no pull request names can be another's.
  """
  last = {}
  if state.rev(layout, state.EXPORTED):
    last = exported_files(layout.beam, state.EXPORTED)
  here = {
      path.relative_to(layout.root).as_posix(): path.read_bytes()
      for path in [*pull_request.files(layout), *layout.sdks.rglob('*')]
      if path.is_file() and '__pycache__' not in path.parts
  }
  ours = _written(layout)
  edited = [
      name for name in sorted({
          **files, **last, **here
      }) if here.get(name) not in (files.get(name), last.get(name)) and
      not (agreed and (name in ours or name not in files))
  ]
  if edited:
    raise ToolError(
        'These files were edited since they agreed with build/beam, and export '
        'would overwrite that. Put the edits aside (git stash), export, and '
        'make them again in build/beam:\n  ' + '\n  '.join(edited))


def _prove(layout: Layout, files: dict[str, bytes]) -> None:
  """Raises ToolError unless `apply` gets the same out of these files."""
  with tempfile.TemporaryDirectory() as tmp:
    copy = Layout(Path(tmp))
    shutil.copy(layout.pin, copy.pin)
    _write(copy, files)
    try:
      head = tree.commit_series(copy)
    except ToolError as e:
      raise ToolError(f'build/beam cannot be told in patches: {e}') from e
    sources = [
        git.out(beam, 'rev-parse', f'{tree.base(beam, at)}^{{tree}}')
        for beam, at in ((copy.beam, head), (layout.beam, 'HEAD'))
    ]
    if sources[0] != sources[1]:
      raise ToolError(
          'The first commit of build/beam is not the source that upstream.toml '
          'pins: it was changed by hand, or the pin was.')
    again = exported_files(copy.beam, head)
  odd = [name for name in files if files[name] != again.get(name)]
  if odd:
    raise ToolError(
        f'{", ".join(odd)} would not come back the same from `apply`. A mail '
        'cannot carry each message: see to lines such as --- or diff, to blank '
        'lines in a row and to a subject of several lines.')


def _written(layout: Layout) -> list[str]:
  """The files that the mails in patches/ stand for."""
  series = pull_request.files(layout)
  mails = [path for path in series if path.suffix == '.patch']
  owned = [path for mail in mails for path in pull_request.read(mail).adds]
  # The mails come last: they say what is ours should this be interrupted.
  return owned + [path.relative_to(layout.root).as_posix() for path in series]


def _write(layout: Layout, files: dict[str, bytes]) -> None:
  """Makes the series in patches/ and sdks/ consist of exactly these files."""
  for name in _written(layout):
    if name not in files:
      (layout.root / name).unlink(missing_ok=True)
  partial = layout.build / 'export.partial'
  layout.build.mkdir(exist_ok=True)
  for name, text in files.items():
    path = layout.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_bytes() != text:
      partial.write_bytes(text)
      os.replace(partial, path)
