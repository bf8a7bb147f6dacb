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

"""Tracks: folders of patches/, and repairs that stand alone."""

import re

import conftest
import pytest
from tools import prefixes

REPAIR = conftest.TEXT.replace('smart_bucketing', 'repairs')


@pytest.fixture(name='tracks')
def fixture_tracks(checkout):
  """Two repairs, of which the second needs the first, and a feature."""
  assert checkout.run('apply') == 0
  checkout.edit('apache_beam/util.py', 'line = 9\n', 'line = 99\n')
  checkout.commit_text(REPAIR.format(subject='Repair nine'))
  checkout.edit('apache_beam/util.py', 'line = 99\n', 'line = 999\n')
  checkout.edit('apache_beam/windows.py', 'second\r\n', 'zweite\r\n')
  checkout.commit_text(
      REPAIR.format(subject='Repair it again') + 'Needs: Repair-nine\n')
  checkout.write('apache_beam/new.py', conftest.NEW)
  checkout.commit('Add new')
  assert checkout.run('export') == 0
  return checkout


def test_each_track_is_a_folder_with_its_order(tracks):
  assert {
      name: text.decode().split()
      for name, text in tracks.files().items() if name.endswith('series')
  } == {
      'patches/repairs/series': ['Repair-nine.patch', 'Repair-it-again.patch'],
      'patches/smart_bucketing/series': ['Add-new.patch']
  }
  trees = tracks.trees()
  tracks.wipe()
  assert tracks.run('apply') == 0
  assert tracks.trees() == trees


def test_a_pull_request_that_moves_to_another_track(tracks):
  message = tracks.git('log', '-1', '--format=%B')
  message = message.replace('smart_bucketing', 'tools_and_examples')
  tracks.git('commit', '-q', '--amend', '-m', message)
  assert tracks.run('export') == 0
  files = tracks.files()
  assert 'patches/tools_and_examples/Add-new.patch' in files
  assert not [name for name in files if 'smart_bucketing' in name]
  assert tracks.run('check') == 0


@pytest.mark.parametrize('track', ['', 'Track: fixes\n', 'Track: repairs\n'])
def test_a_track_that_may_not_come_there(tracks, track):
  tracks.edit('apache_beam/util.py', 'line = 20\n', 'line = 21\n')
  text = conftest.TEXT.format(subject='Late')
  tracks.commit_text(re.sub('^Track: .*\n', track, text, flags=re.MULTILINE))
  said = tracks.refused('export')
  assert '(Late) has the trailer `Track:' in said
  assert 'expected one of smart_bucketing, iterative_inference' in said


def test_a_patch_outside_of_the_tracks(tracks):
  for name in ('stray.patch', 'mine/stray.patch', 'repairs/deep/stray.patch'):
    path = tracks.layout.patches / name
    path.parent.mkdir(exist_ok=True)
    path.write_text('Subject: Stray\n')
    for command in ('check', 'apply', 'status'):
      assert f'patches/{name}' in tracks.refused(command)
    path.unlink()


def test_a_text_beside_the_patches_is_nobodys(tracks):
  (tracks.track / 'README.md').write_text('# Hello\n')
  assert tracks.run('export') == 0
  assert tracks.run('check') == 0
  assert (tracks.track / 'README.md').read_text() == '# Hello\n'


@pytest.mark.parametrize(
    'needs, said',
    [
        ('', 'does not apply to the release alone, see to .*/util.py'),
        ('Needs: Repair-ten\n', 'needs Repair-ten, which is not before it'),
    ])
def test_a_repair_says_what_it_needs(tracks, needs, said):
  assert tracks.run('check') == 0
  path = tracks.layout.patches / 'repairs' / 'Repair-it-again.patch'
  text = path.read_bytes().decode()
  path.write_bytes(text.replace('Needs: Repair-nine\n', needs).encode())
  assert re.search('Repair it again: ' + said, tracks.refused('check'))


def test_a_long_repair(tracks):
  assert tracks.run('apply') == 0
  lines = 'a = 1\n' * 151
  tracks.git('checkout', '-q', 'HEAD~2')
  tracks.write('apache_beam/tall.py', conftest.LICENCE + lines)
  tracks.write('apache_beam/tall_test.py', conftest.LICENCE + lines)
  tracks.commit_text(REPAIR.format(subject='Repair at length'))
  tracks.git('cherry-pick', 'series~1', 'series')
  tracks.git('checkout', '-q', '-B', 'series')
  assert tracks.run('export') == 0
  assert (
      'Repair-at-length: a repair has at most 150 lines without its tests, this '
      'one 152.') in tracks.refused('check')


def test_mails_of_a_track(tracks, tmp_path, capsys):
  (tracks.track / 'README.md').write_text('# Batches by length\n\nWhy.\n')
  out = tmp_path / 'out'
  assert tracks.run('mbox', '--out', out, '--track', 'smart_bucketing') == 0
  letter, mail = sorted(out.iterdir())
  assert letter.read_text().startswith(
      'Subject: [PATCH 0/1] Batches by length\n\nWhy.\n')
  assert 'Repair' not in letter.read_text()
  assert mail.name == '0001-Add-new.patch'
  out = tmp_path / 'repairs'
  assert tracks.run('mbox', '--out', out, '--track', 'repairs') == 0
  texts = [path.read_text() for path in sorted(out.iterdir())[1:]]
  assert len(texts) == 2
  assert not any(
      re.search('^(Track|Needs): ', text, re.MULTILINE) for text in texts)
  said = tracks.refused(
      'mbox', '--out', tmp_path / 'none', '--track', 'tools_and_examples')
  assert 'No pull request is in the track tools_and_examples' in said


def test_prefixes_have_each_repair_alone(tracks):
  work = tracks.layout.build / 'work'
  tracks.git('worktree', 'add', '-q', '--detach', work, 'series')
  commits = tracks.git('rev-list', '--reverse', 'refs/series/base..series')
  found = list(prefixes._all(tracks.layout, work, commits.split()))
  assert [(number, title) for number, _, title in found] == [
      (1, 'Repair nine'),
      (2, 'Repair it again'),
      (2, 'Repair it again, alone'),
      (3, 'Add new'),
  ]
