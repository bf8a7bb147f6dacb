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

"""export refuses, with a clear message, what the series cannot hold."""

import os

import conftest
import pytest


def refused(checkout) -> str:
  """Exports in vain; nothing may be written then."""
  before = checkout.files()
  said = checkout.refused('export')
  assert checkout.files() == before
  assert 'Traceback' not in said
  return said


def test_a_deleted_file(series):
  (series.source / 'apache_beam' / 'windows.py').unlink()
  series.commit('Drop windows')
  said = refused(series)
  assert 'Drop windows' in said
  assert 'deletes or replaces sdks/python/apache_beam/windows.py' in said


def test_a_renamed_file(series):
  series.git(
      'mv', series.source / 'apache_beam/new.py', series.source / 'newer.py')
  series.commit('Rename new')
  assert 'deletes or replaces sdks/python/apache_beam/new.py' in refused(series)


def test_a_file_outside_sdks(series):
  (series.beam / 'README.md').write_text('x\n')
  series.commit('Add a readme')
  said = refused(series)
  assert 'Add a readme' in said
  assert 'adds README.md' in said and 'under sdks/ only' in said


def test_an_executable(series):
  series.write('apache_beam/run.sh', conftest.LICENCE).chmod(0o755)
  series.commit('Add a script')
  said = refused(series)
  assert 'run.sh with mode 100755' in said and 'plain files' in said


def test_a_symbolic_link(series):
  os.symlink('util.py', series.source / 'apache_beam' / 'link.py')
  series.commit('Add a link')
  assert 'link.py with mode 120000' in refused(series)


def test_a_file_that_becomes_a_link(series):
  path = series.source / 'apache_beam' / 'util.py'
  path.unlink()
  os.symlink('new.py', path)
  series.commit('Link util')
  assert 'deletes or replaces' in refused(series)


@pytest.mark.parametrize(
    'name', ['apache_beam/logo.png', 'apache_beam/util.py'])
def test_a_binary_file(series, name):
  series.write(name, b'\x89PNG\0\xff')
  series.commit('Draw a logo')
  said = refused(series)
  assert 'Draw a logo' in said and f'{name}, which is binary' in said


@pytest.mark.parametrize('name', ['a"b.py', 'a\tb.py', 'a\\b.py'])
def test_an_odd_name(series, name):
  series.write(name, conftest.LICENCE)
  series.commit('Add an odd name')
  assert 'plainer name' in refused(series)


def test_two_commits_with_the_same_subject(series):
  series.write('apache_beam/fourth.py', conftest.LICENCE)
  series.commit('Add new')
  said = refused(series)
  assert 'Two commits' in said and 'Add-new.patch' in said


def test_a_merge(series):
  series.git('checkout', '-q', '-b', 'side', 'HEAD~1')
  series.write('apache_beam/side.py', conftest.LICENCE)
  series.commit('Add side')
  series.git('checkout', '-q', 'series')
  series.git('merge', '-q', 'side')
  assert 'must be a line of commits' in refused(series)


def test_a_merge_with_another_history(series):
  series.git('checkout', '-q', '--orphan', 'side')
  series.commit('Another root')
  series.git('checkout', '-q', 'series')
  series.git('merge', '-q', '--allow-unrelated-histories', 'side')
  assert 'must be a line of commits' in refused(series)


def test_a_commit_without_changes(series):
  text = conftest.TEXT.format(subject='Say something')
  series.commit_text(text, '--allow-empty')
  said = refused(series)
  assert 'Say something' in said and 'changes nothing' in said


def test_a_change_to_the_release_itself(series):
  series.git(
      'checkout', '-q', series.git('rev-list', '--max-parents=0', 'HEAD'))
  series.write('apache_beam/size.py', 'size = 2\n')
  series.git('add', '--all')
  series.git('commit', '-q', '--amend', '--no-edit')
  series.git(
      'rebase', '-q', '--onto', 'HEAD', 'refs/series/exported~3', 'series')
  assert 'The first commit of build/beam is not the source' in refused(series)


@pytest.mark.parametrize(
    'message',
    [
        'Title\n\nText\n\n---\n\nmore text\n',
        'Title\n\nText\n\ndiff --git a/x b/x\n',
        'Title\n\nFrom: Bob <bob@example.org>\n\nText\n',
        'Title\nof two lines\n\nText\n',
        '[PATCH] Title\n\nText\n',
        'Title\n\nText\n\nAdds: sdks/python/apache_beam/imagined.py\n',
        'Title\n\nText\n\n\n\nmore text\n',
    ])
def test_a_message_that_a_mail_cannot_carry(series, message):
  series.write('apache_beam/fourth.py', conftest.LICENCE)
  series.commit_text(message, '--cleanup=verbatim')
  said = refused(series)
  assert 'Title' in said or 'of-two-lines' in said


def test_names_with_spaces_and_letters_of_any_language(series):
  name = 'apache_beam/mein größtes modul.py'
  series.write(name, conftest.LICENCE + 'a = 1\n')
  series.edit('apache_beam/größe.py', 'size = 1', 'size = 2')
  series.edit('apache_beam/with space.py', 'an end', 'a newline')
  series.commit('Add größtes')
  series.edit(name, 'a = 1', 'a = 2')
  series.commit('Ändere größtes (大きい), und was sonst noch zu ändern wäre')
  assert series.run('export') == 0
  trees, files = series.trees(), series.files()
  series.wipe()
  assert series.run('apply') == 0
  assert series.trees() == trees
  assert series.run('export') == 0
  assert series.files() == files


def test_a_text_in_another_encoding_keeps_its_bytes(series):
  series.write('apache_beam/latin.py', b'a = "\xe4"\nb = 1\n')
  series.commit('Add latin')
  series.write('apache_beam/latin.py', b'a = "\xe4"\nb = "\xf6"\n')
  series.commit('Change latin')
  assert series.run('export') == 0
  trees = series.trees()
  series.wipe()
  assert series.run('apply') == 0
  assert series.trees() == trees
  assert series.run('status') == 0


def test_a_changed_mode_comes_back(series):
  (series.source / 'apache_beam' / 'util.py').chmod(0o755)
  series.commit('Make util a script')
  assert series.run('export') == 0
  trees = series.trees()
  series.wipe()
  assert series.run('apply') == 0
  assert series.trees() == trees
