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

"""mbox: the mails that `git am` takes on a checkout of the release."""

import re

import conftest
import pytest


@pytest.fixture(name='release')
def fixture_release(series, tmp_path):
  """A fresh repository that holds the release in sdks/python."""
  folder = tmp_path / 'release'
  for name, text in conftest.RELEASE.items():
    path = folder / 'sdks' / 'python' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
  series.git('init', '-q', cwd=folder)
  series.git('add', '--all', '--force', cwd=folder)
  series.git('commit', '-q', '-m', 'release', cwd=folder)
  return folder


def mails(folder) -> list:
  return sorted(folder.glob('*.patch'))


def test_git_am_gives_the_tree_of_beam(series, release, tmp_path):
  series.edit('apache_beam/windows.py', 'zweite\r\n', 'second\r\n')
  series.git('commit', '-q', '--all', '--amend', '--no-edit')
  assert series.run('export') == 0
  out = tmp_path / 'out'
  assert series.run('mbox', '--out', out) == 0
  series.git('am', '-q', *mails(out), cwd=release)
  trees = series.git('log', '--format=%T', cwd=release).split()
  assert trees == series.trees()


def test_git_am_keeps_crlf_when_told_to(series, release, tmp_path):
  out = tmp_path / 'out'
  assert series.run('mbox', '--out', out) == 0
  assert '--keep-cr' in (out / '0000-cover-letter.txt').read_text()
  series.git('am', '-q', '--keep-cr', *mails(out), cwd=release)
  tree = series.git('rev-parse', 'HEAD^{tree}', cwd=release)
  assert tree == series.trees()[0]


def test_there_is_a_whole_mail_for_each_pull_request(series, tmp_path):
  out = tmp_path / 'a' / 'new folder'
  assert series.run('mbox', '--out', out) == 0
  assert [path.name for path in sorted(out.iterdir())] == [
      '0000-cover-letter.txt',
      '0001-Add-new.patch',
      '0002-Change-new.patch',
      '0003-Hook-into-util.patch'
  ]
  first, second, _ = [path.read_text() for path in mails(out)]
  assert 'Subject: [PATCH 1/3] Add new\n' in first
  assert '+b = 1\n' in first and '\nnew file mode 100644\n' in first
  assert '-b = 1\n+b = 22\n' in second
  assert 'Adds: ' not in first + second


def test_the_cover_letter_says_what_is_in_the_mails(series, tmp_path, capsys):
  out = tmp_path / 'out'
  assert series.run('mbox', '--out', out) == 0
  letter = (out / '0000-cover-letter.txt').read_text()
  assert letter.startswith('Subject: [PATCH 0/3] ')
  assert 'apache-beam 9.9.9, folder sdks/python/' in letter
  assert '4 files changed' in letter
  capsys.readouterr()
  assert series.run('status') == 0
  assert capsys.readouterr().out.strip() in letter
  assert re.search(r'util\.py +\| +3', letter)


def test_a_folder_that_holds_something_is_refused(series, tmp_path):
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out' / 'mine.txt').touch()
  for out in (tmp_path / 'out', tmp_path / 'out' / 'mine.txt'):
    assert 'not an empty folder' in series.refused('mbox', '--out', out)


def test_an_empty_series_has_a_cover_letter(checkout, tmp_path):
  assert checkout.run('mbox', '--out', tmp_path / 'out') == 0
  assert [path.name for path in (tmp_path / 'out').iterdir()
          ] == ['0000-cover-letter.txt']
