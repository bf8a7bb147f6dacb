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

"""apply: build/beam is the pristine source and a commit per pull request."""

import os
import tempfile
import time

import conftest
import pytest
from tools.series import state

# Of a release without pull requests: what every machine must come to.
BASE = '1882ecc93154'


def test_the_first_commit_is_the_pristine_source(checkout):
  assert checkout.run('apply') == 0
  held = checkout.git('ls-files', '-z').rstrip('\0').split('\0')
  assert sorted(held) == sorted(f'sdks/python/{n}' for n in conftest.RELEASE)
  for name, text in conftest.RELEASE.items():
    assert (checkout.source / name).read_bytes() == text.encode()
    at = checkout.git('rev-parse', f'HEAD:sdks/python/{name}')
    raw = checkout.source / name
    assert at == checkout.git('hash-object', '--no-filters', raw)
  assert checkout.git('status', '--porcelain') == ''


def test_there_is_a_commit_for_each_pull_request(series):
  series.wipe()
  assert series.run('apply') == 0
  subjects = series.git('log', '--reverse', '--format=%s').splitlines()
  assert subjects == [
      'apache-beam 9.9.9, as released',
      'Add new',
      'Change new',
      'Hook into util'
  ]


def test_the_message_is_the_text_without_adds(series):
  series.wipe()
  assert series.run('apply') == 0
  texts = series.git('log', '--format=%B%x00', '-3').split('\0')
  assert texts[2].strip() + '\n' == conftest.TEXT.format(subject='Add new')
  author = series.git('log', '-1', '--format=%an <%ae>')
  assert author == 'Ada Lövelace <ada@example.org>'


def test_the_hashes_are_the_same_for_another_user(
    series, monkeypatch, tmp_path):
  series.wipe()
  assert series.run('apply') == 0
  hashes = series.git('log', '--format=%H').split()
  series.wipe()
  home = tmp_path / 'other'
  (home / '.config' / 'git').mkdir(parents=True)
  (home / '.gitconfig').write_text(
      '[user]\nname = Bob\nemail = bob@example.org\nsigningkey = none\n'
      '[commit]\ngpgsign = true\n[core]\nautocrlf = true\nabbrev = 5\n'
      '[am]\nthreeway = true\n[apply]\nwhitespace = fix\n[color]\nui = always\n'
      '[diff]\nnoprefix = true\ncontext = 0\n[format]\nsignoff = true\n')
  (home / '.config' / 'git' / 'attributes').write_text('* text=auto eol=crlf\n')
  (home / '.config' / 'git' / 'ignore').write_text('*\n')
  for name, value in {
      'HOME': str(home),
      'TZ': 'Asia/Kolkata',
      'GIT_AUTHOR_NAME': 'Bob',
      'GIT_COMMITTER_DATE': '2001-01-01T00:00:00Z',
      'GIT_DIR': str(tmp_path / 'elsewhere'),
      'LC_ALL': 'de_DE.UTF-8',
  }.items():
    monkeypatch.setenv(name, value)
  time.tzset()
  old = os.umask(0o077)
  try:
    assert series.run('apply') == 0
  finally:
    os.umask(old)
  monkeypatch.delenv('GIT_DIR')
  assert series.git('log', '--format=%H').split() == hashes
  assert hashes[-1].startswith(BASE)
  before = series.files()
  assert series.run('export') == 0
  assert series.files() == before


def test_a_file_stands_in_its_first_commit_without_later_hunks(series):
  series.wipe()
  assert series.run('apply') == 0
  first = series.git('show', 'HEAD~2:sdks/python/apache_beam/new.py')
  assert first == conftest.NEW.rstrip('\n')
  assert 'b = 22' in (series.source / 'apache_beam/new.py').read_text()


@pytest.mark.parametrize('to, at', [('1', 'HEAD~2'), ('Change-new', 'HEAD~1')])
def test_to_stops_behind_a_pull_request(series, to, at):
  tree = series.git('rev-parse', at + '^{tree}')
  assert series.run('apply', '--to', to) == 0
  assert series.git('rev-parse', 'HEAD^{tree}') == tree
  assert series.git('status', '--porcelain') == ''


def test_to_the_last_pull_request_is_the_whole_series(series):
  assert series.run('apply', '--to', '3') == 0
  assert series.run('export') == 0


@pytest.mark.parametrize('to', ['0', '4', 'Unknown'])
def test_to_an_unknown_pull_request_is_refused(series, to):
  said = series.refused('apply', '--to', to)
  assert 'a number from 1 to 3' in said and 'Hook-into-util' in said


def test_apply_goes_back_and_forth(series):
  tree = series.git('rev-parse', 'HEAD^{tree}')
  for to in (['--to', '1'], ['--to', '2'], []):
    assert series.run('apply', *to) == 0
  assert series.git('rev-parse', 'HEAD^{tree}') == tree


def test_apply_again_changes_nothing(series):
  head = series.git('rev-parse', 'HEAD')
  assert series.run('apply') == 0
  assert series.git('rev-parse', 'HEAD') == head


def test_apply_takes_what_was_pulled(series):
  for name in ('patches/smart_bucketing/Change-new.patch',
               'sdks/python/apache_beam/new.py'):
    path = series.layout.root / name
    path.write_text(path.read_text().replace('b = 22', 'b = 222'))
  assert series.run('apply') == 0
  assert 'b = 222' in (series.source / 'apache_beam/new.py').read_text()
  assert series.run('check') == 1  # Its index line names the old text.
  assert series.run('export') == 0
  assert series.run('check') == 0


def leave_uncommitted(checkout):
  checkout.write('apache_beam/util.py', 'edited = True\n')


def leave_staged(checkout):
  checkout.write('apache_beam/util.py', 'edited = True\n')
  checkout.git('add', '--all')


def leave_untracked(checkout):
  checkout.write('apache_beam/mine.py', 'mine = True\n')


def leave_unexported(checkout):
  checkout.write('apache_beam/util.py', 'edited = True\n')
  checkout.commit('Edit')


def leave_dropped(checkout):
  checkout.git('reset', '-q', '--hard', 'HEAD~1')


def leave_on_a_branch(checkout):
  checkout.git('checkout', '-q', '-b', 'mine')


def leave_detached(checkout):
  checkout.git('checkout', '-q', '--detach')


def leave_in_a_rebase(checkout):
  checkout.git('rebase', '-q', '-x', 'false', 'HEAD~2', fails=True)


@pytest.mark.parametrize(
    'leave, word',
    [
        (leave_uncommitted, 'not committed'),
        (leave_staged, 'not committed'),
        (leave_untracked, 'not committed'),
        (leave_unexported, 'not exported'),
        (leave_dropped, 'not exported'),
        (leave_on_a_branch, 'check out series'),
        (leave_detached, 'check out series'),
        (leave_in_a_rebase, 'in the middle of a rebase'),
    ])
def test_work_in_beam_is_never_overwritten(series, leave, word):
  leave(series)
  series.layout.pin.write_text(series.layout.pin.read_text() + '# newer\n')
  head = series.git('rev-parse', 'HEAD')
  status = series.git('status', '--porcelain', '--branch')
  text = series.git('diff', 'HEAD')
  for argv in (['apply'], ['apply', '--to', '1'], ['apply', '--continue']):
    assert word in series.refused(*argv)
  assert series.git('rev-parse', 'HEAD') == head
  assert series.git('status', '--porcelain', '--branch') == status
  assert series.git('diff', 'HEAD') == text


def test_commits_on_a_part_can_be_kept_as_the_message_says(series):
  assert series.run('apply', '--to', '1') == 0
  series.write('apache_beam/third.py', conftest.LICENCE)
  series.commit('Add third')
  said = series.refused('apply')
  for line in said.splitlines():
    if line.startswith('  git -C '):
      words = line.strip().removeprefix(f'git -C {series.beam} ').split()
      series.git(*words)
    elif line.startswith('  python -m tools.series '):
      assert series.run(*line.split()[3:]) == 0
  assert series.run('export') == 0
  assert 'patches/smart_bucketing/Add-third.patch' in series.files()
  assert len(series.trees()) == 5


def test_a_folder_that_is_no_repository_is_left_alone(checkout):
  checkout.write('mine.txt', 'mine')
  assert 'no git repository' in checkout.refused('apply')
  assert (checkout.source / 'mine.txt').read_text() == 'mine'


def test_a_repository_around_the_checkout_is_left_alone(series, monkeypatch):
  root = series.layout.root
  series.git('init', '-q', cwd=root)
  (root / 'tmp').mkdir()
  monkeypatch.setattr(tempfile, 'tempdir', str(root / 'tmp'))
  series.wipe()
  assert series.run('apply') == 0
  assert series.run('check') == 0
  assert series.git('for-each-ref', cwd=root) == ''


def test_the_last_exported_head_has_a_ref(series):
  head = series.git('rev-parse', 'HEAD')
  assert series.git('rev-parse', state.EXPORTED) == head
