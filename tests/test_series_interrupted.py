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

"""Whatever moment a run is cut short at, the next one comes to the same end."""

import contextlib
import io
import shutil

import conftest
import pytest
from tools.series import git
from tools.series import state


class Cut(BaseException):
  """Nothing catches it, as nothing catches a kill."""


def cut_short(checkout, patch, number: int, *argv) -> bool:
  """Runs a command up to a call of git; whether it was cut short."""
  calls = iter(range(number))
  run = git.run

  def counted(*args, **kwargs):
    if next(calls, None) is None:
      raise Cut
    return run(*args, **kwargs)

  with patch.context() as p, contextlib.redirect_stdout(io.StringIO()):
    p.setattr(git, 'run', counted)
    try:
      assert checkout.run(*argv) == 0
    except Cut:
      return True
  return False


def at_every_call(checkout, tmp_path, patch, *argv):
  """Yields copies in which the command was cut short, each one call later.

  A state that was there before is left out: git only read since then.
  """
  seen: set[int] = set()
  for number in range(1000):
    copy = checkout.copy(tmp_path / f'copy {number}')
    if not cut_short(copy, patch, number, *argv):
      assert number > 5 and len(seen) >= 3
      return
    state_of_files = fingerprint(copy)
    if state_of_files not in seen:
      seen.add(state_of_files)
      yield copy


def fingerprint(checkout) -> int:
  """All files of a checkout, but for what git dates: index and logs."""
  root = checkout.layout.root
  return hash(
      frozenset((path.relative_to(root), path.read_bytes())
                for path in root.rglob('*') if path.is_file() and
                path.name != 'index' and 'logs' not in path.parts))


def at_rest(checkout, trees) -> None:
  """All of the series is in build/beam, exported and nothing left behind."""
  assert checkout.trees() == trees
  assert checkout.git('status', '--porcelain') == ''
  refs = checkout.git('for-each-ref',
                      '--format=%(refname) %(objectname)').splitlines()
  head = checkout.git('rev-parse', 'HEAD')
  assert f'{state.EXPORTED} {head}' in refs
  assert not [ref for ref in refs if 'pending' in ref]
  agreed = state.setting(checkout.layout, 'files')
  assert agreed == state.digest(checkout.layout)
  left = {path.name for path in checkout.layout.build.iterdir()}
  assert left <= {'beam', 'apply'}


def test_the_first_apply(series, tmp_path, monkeypatch):
  trees = series.trees()
  series.wipe()
  for copy in at_every_call(series, tmp_path, monkeypatch, 'apply'):
    assert copy.run('apply') == 0
    at_rest(copy, trees)


def test_an_apply_that_moves_on(series, tmp_path, monkeypatch):
  trees = series.trees()
  assert series.run('apply', '--to', '1') == 0
  for copy in at_every_call(series, tmp_path, monkeypatch, 'apply'):
    assert copy.run('apply') == 0
    at_rest(copy, trees)


def test_an_export(series, tmp_path, monkeypatch):
  series.git('reset', '-q', '--soft', 'HEAD~2')
  series.write('apache_beam/another.py', conftest.LICENCE)
  series.commit('Two in one')
  trees = series.trees()
  expected = None
  for copy in at_every_call(series, tmp_path, monkeypatch, 'export'):
    assert copy.run('export') == 0
    expected = expected or copy.files()
    assert copy.files() == expected
    assert copy.run('apply') == 0
    at_rest(copy, trees)


def test_an_export_between_its_files(series, tmp_path):
  series.git('reset', '-q', '--soft', 'HEAD~2')
  series.write('apache_beam/another.py', conftest.LICENCE)
  series.commit('Two in one')
  done = series.copy(tmp_path / 'done')
  assert done.run('export') == 0
  old, new = series.files(), done.files()
  changed = sorted(
      name for name in {
          **old, **new
      } if old.get(name) != new.get(name))
  assert len(changed) == 5
  for count in range(len(changed)):
    copy = series.copy(tmp_path / f'copy {count}')
    for name in changed[:count]:
      path = copy.layout.root / name
      path.unlink(missing_ok=True)
      if name in new:
        path.write_bytes(new[name])
    assert copy.run('export') == 0
    assert copy.files() == new


def test_a_continued_apply(series, tmp_path, monkeypatch):
  text = conftest.RELEASE['apache_beam/util.py'].replace('= 20\n', '= 200\n')
  series.pin(conftest.sdist({**conftest.RELEASE, 'apache_beam/util.py': text}))
  series.refused('apply')
  work = series.layout.build / 'apply'
  (work / 'sdks' / 'python' / 'apache_beam' /
   'windows.py').write_text('mended\n')
  series.git('add', '--all', cwd=work)
  series.git('am', '--continue', cwd=work)
  tree = series.git('rev-parse', 'HEAD^{tree}', cwd=work)
  saved = series.copy(tmp_path / 'saved')
  seen: set[int] = set()
  number = 0
  while cut_short(series, monkeypatch, number, 'apply', '--continue'):
    if fingerprint(series) not in seen:
      seen.add(fingerprint(series))
      if series.git('rev-parse', 'HEAD^{tree}') != tree:
        series.run('apply', '--continue')
      assert series.run('export') == 0
      assert series.trees()[0] == tree
      assert series.run('check') == 0
    # A worktree knows its place, so the copy takes that place.
    shutil.rmtree(series.layout.root)
    saved.copy(series.layout.root)
    number += 1
  assert number > 5 and len(seen) >= 3


def test_a_half_written_tree_is_written_again(series):
  head, trees = series.git('rev-parse', 'HEAD'), series.trees()
  assert series.run('apply', '--to', '1') == 0
  series.git('config', 'series.pending-from', series.git('rev-parse', 'HEAD'))
  series.git('config', 'series.pending-files', 'whatever was applied')
  series.git('config', 'series.pending-exported', 'yes')
  series.git('update-ref', 'refs/series/pending', head)
  series.write('apache_beam/util.py', 'line = 1\nli')
  (series.source / 'apache_beam' / 'windows.py').unlink()
  (series.beam / '.git' / 'index.lock').touch()
  assert series.run('apply') == 0
  at_rest(series, trees)


def test_commits_since_an_interrupted_apply_are_kept(series):
  old = series.git('rev-parse', 'HEAD')
  series.git('config', 'series.pending-from', old)
  series.git('update-ref', 'refs/series/pending', 'HEAD~1')
  series.write('apache_beam/mine.py', conftest.LICENCE)
  head = series.commit('Mine')
  assert 'not exported' in series.refused('apply')
  assert series.git('rev-parse', 'HEAD') == head
  assert series.run('export') == 0


def test_a_stale_partial_repository_is_replaced(series):
  trees = series.trees()
  series.wipe()
  stale = series.layout.build / 'beam.partial' / '.git'
  stale.mkdir(parents=True)
  (stale / 'config').write_text('nonsense')
  assert series.run('apply') == 0
  at_rest(series, trees)


@pytest.mark.parametrize('locked', [False, True])
def test_a_leftover_worktree_is_replaced(series, locked):
  trees = series.trees()
  work = series.layout.build / 'apply'
  series.git('worktree', 'add', '-q', '--detach', work)
  (work / 'sdks').rename(work / 'half')
  if locked:
    series.git('worktree', 'lock', work)
  series.layout.pin.write_text(series.layout.pin.read_text() + '# newer\n')
  assert series.run('apply') == 0
  assert not work.exists()
  at_rest(series, trees)


def test_a_worktree_that_is_no_longer_one_is_replaced(series):
  trees = series.trees()
  work = series.layout.build / 'apply'
  work.mkdir()
  (work / 'rest').touch()
  assert 'Nothing to continue' in series.refused('apply', '--continue')
  series.layout.pin.write_text(series.layout.pin.read_text() + '# newer\n')
  assert series.run('apply') == 0
  at_rest(series, trees)
