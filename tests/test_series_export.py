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

"""export: the way back from build/beam to patches/ and sdks/."""

import conftest
import pytest
from tools.series import state

NEW = 'sdks/python/apache_beam/new.py'


def rebase(checkout, *commits):
  """git rebase -i to these commits, or as --autosquash orders them."""
  editor = 'true'
  if commits:
    todo = checkout.layout.root.parent / 'todo'
    todo.write_text(''.join(f'pick {commit}\n' for commit in commits))
    editor = f'cp {todo}'
  checkout.git(
      *('-c', f'sequence.editor={editor}'),
      *('rebase', '-q', '-i', '--autosquash', '--root'))


def test_a_mail_holds_the_text_and_the_owned_files_by_name_only(series):
  mail = series.files()['patches/smart_bucketing/Change-new.patch'].decode()
  assert mail.count('\nAdds: sdks/') == 1
  assert '\nAdds: sdks/python/apache_beam/other.py\n\ndiff --git' in mail
  assert '-b = 1\n+b = 22\n' in mail and 'd = 4' not in mail
  assert mail.startswith('From 0000000000000000000000000000000000000000 Mon')


def test_the_files_of_the_series_hold_their_final_text(series):
  files = series.files()
  assert sorted(files) == [
      'patches/smart_bucketing/Add-new.patch',
      'patches/smart_bucketing/Change-new.patch',
      'patches/smart_bucketing/Hook-into-util.patch',
      'patches/smart_bucketing/series',
      NEW,
      'sdks/python/apache_beam/other.py'
  ]
  assert files[NEW] == (series.source / 'apache_beam/new.py').read_bytes()
  assert files['patches/smart_bucketing/series'].decode().split() == [
      'Add-new.patch', 'Change-new.patch', 'Hook-into-util.patch'
  ]


def test_nothing_changed_gives_the_same_bytes(series):
  before = series.files()
  assert series.run('export') == 0
  assert series.files() == before
  series.wipe()
  assert series.run('apply') == 0
  assert series.run('export') == 0
  assert series.files() == before


def test_unchanged_files_keep_their_time(series):
  path = series.layout.root / NEW
  before = path.stat().st_mtime_ns
  assert series.run('export') == 0
  assert path.stat().st_mtime_ns == before


def test_a_fixup_changes_the_pull_request_it_is_for(series):
  other = series.files()['patches/smart_bucketing/Hook-into-util.patch']
  series.edit('apache_beam/new.py', 'j = 1', 'j = 2')
  series.git('commit', '-q', '--all', '--fixup', 'HEAD~2')
  rebase(series)
  assert series.run('export') == 0
  assert series.run('check') == 0
  files = series.files()
  assert b'j = 2' in files[NEW]
  assert b'j = ' not in files['patches/smart_bucketing/Change-new.patch']
  assert files['patches/smart_bucketing/Hook-into-util.patch'] == other
  assert series.git('rev-parse',
                    state.EXPORTED) == series.git('rev-parse', 'HEAD')


def test_pull_requests_can_be_reordered(series):
  tree = series.trees()[0]
  first, *rest, last = series.git('rev-list', '--reverse', 'HEAD').split()
  rebase(series, first, last, *rest)
  assert series.run('export') == 0
  assert series.files()['patches/smart_bucketing/series'].decode().split() == [
      'Hook-into-util.patch', 'Add-new.patch', 'Change-new.patch'
  ]
  assert series.run('check') == 0
  series.wipe()
  assert series.run('apply') == 0
  assert series.trees()[0] == tree


def test_a_dropped_pull_request_takes_its_files_along(series):
  series.write('apache_beam/fourth/f.py', conftest.LICENCE)
  series.commit('Add fourth')
  assert series.run('export') == 0
  assert 'sdks/python/apache_beam/fourth/f.py' in series.files()
  rebase(series, *series.git('rev-list', '--reverse', 'HEAD~1').split())
  assert series.run('export') == 0
  assert series.run('check') == 0
  assert not [name for name in series.files() if 'ourth' in name]


def test_a_new_text_is_a_new_name(series):
  text = conftest.TEXT.format(subject='Hook deeper into util')
  series.commit_text(text, '--amend')
  assert series.run('export') == 0
  assert 'patches/smart_bucketing/Hook-deeper-into-util.patch' in series.files()
  assert 'patches/smart_bucketing/Hook-into-util.patch' not in series.files()


def test_another_pull_request_may_add_a_file_after_a_rebase(series):
  series.git('reset', '-q', '--soft', 'HEAD~3')
  series.commit('One for all')
  assert series.run('export') == 0
  assert series.run('check') == 0
  mail = series.files()['patches/smart_bucketing/One-for-all.patch'].decode()
  assert mail.count('\nAdds: ') == 2


def edit_an_added_file(root):
  (root / NEW).write_text('by hand\n')


def edit_a_patch(root):
  path = root / 'patches' / 'smart_bucketing' / 'Add-new.patch'
  path.write_text(path.read_text().replace('What', 'All that'))


def edit_the_order(root):
  path = root / 'patches' / 'smart_bucketing' / 'series'
  path.write_text(''.join(reversed(path.read_text().splitlines(True))))


def remove_an_added_file(root):
  (root / NEW).unlink()


def add_a_file(root):
  (root / 'sdks' / 'mine.py').write_text('by hand\n')


def add_a_patch(root):
  path = root / 'patches' / 'smart_bucketing' / 'Add-new.patch'
  (root / 'patches' / 'smart_bucketing' / 'Mine.patch').write_text(
      path.read_text())


@pytest.mark.parametrize('commits', [False, True])
@pytest.mark.parametrize(
    'edit, name',
    [
        (edit_an_added_file, NEW),
        (edit_a_patch, 'patches/smart_bucketing/Add-new.patch'),
        (edit_the_order, 'patches/smart_bucketing/series'),
        (remove_an_added_file, NEW),
        (add_a_file, 'sdks/mine.py'),
        (add_a_patch, 'patches/smart_bucketing/Mine.patch'),
    ])
def test_edits_by_hand_are_never_overwritten(series, edit, name, commits):
  if commits:
    series.edit('apache_beam/new.py', 'j = 1', 'j = 2')
    series.git('commit', '-q', '--all', '--fixup', 'HEAD~2')
    rebase(series)
  edit(series.layout.root)
  before = series.files()
  said = series.refused('export')
  assert 'edited' in said and f'\n  {name}\n' in said
  assert series.files() == before


def test_a_changed_pin_is_applied_before_the_next_export(series):
  series.pin(conftest.sdist({**conftest.RELEASE, 'x': ''}, '9.9.10'), '9.9.10')
  before = series.files()
  assert 'upstream.toml pins' in series.refused('export')
  assert series.files() == before


def test_a_stray_file_survives(series):
  stray = series.layout.sdks / 'python' / 'apache_beam' / 'stray.py'
  stray.write_text('stray = True\n')
  assert series.run('apply') == 0
  assert series.run('export') == 0
  assert stray.read_text() == 'stray = True\n'
  series.write('apache_beam/stray.py', conftest.LICENCE)
  series.commit('Add stray')
  assert 'stray.py' in series.refused('export')
  assert stray.read_text() == 'stray = True\n'


def test_a_part_of_the_series_is_never_exported(series):
  assert series.run('apply', '--to', '2') == 0
  before = series.files()
  assert 'only a part of the series' in series.refused('export')
  assert series.files() == before


def test_nothing_is_exported_in_the_middle_of_a_rebase(series):
  series.git('rebase', '-q', '-x', 'false', 'HEAD~2', fails=True)
  assert 'in the middle of a rebase' in series.refused('export')


def test_uncommitted_work_is_committed_before_export(series):
  series.write('apache_beam/mine.py', conftest.LICENCE)
  assert 'not committed' in series.refused('export')


def test_there_is_nothing_to_export_before_apply(checkout):
  assert 'run `apply` first' in checkout.refused('export')
