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

"""check, status and mbox."""

import re

import conftest
import pytest
from tools.series import pull_request


def patch(checkout, name: str, old: str, new: str) -> None:
  """Edits a file of patches/ by hand."""
  path = checkout.track / name
  text = path.read_bytes().decode()
  assert old in text
  path.write_bytes(text.replace(old, new, 1).encode())


def problems(checkout) -> list[str]:
  return checkout.refused('check').splitlines()


def test_a_sound_series_has_no_problems(series):
  assert series.run('check') == 0


def test_a_hunk_at_an_offset(series):
  patch(
      series, 'Hook-into-util.patch', '@@ -18,6 +18,7 @@', '@@ -17,6 +17,7 @@')
  (line, ) = problems(series)
  assert 'Hook-into-util.patch: differs' in line and 'offset' in line


def test_a_hunk_at_an_offset_in_an_added_file(series):
  patch(series, 'Change-new.patch', '@@ -1,6 +1,6 @@', '@@ -2,6 +2,6 @@')
  assert 'Change-new' in problems(series)[0]


def test_a_hunk_that_needs_fuzz(series):
  patch(series, 'Hook-into-util.patch', '\n line = 18\n', '\n line = 180\n')
  lines = problems(series)
  assert lines[0] == 'Hook-into-util does not apply.'
  assert lines[1].startswith(
      '  sdks/python/apache_beam/util.py, hunk 1 of 1: @@')
  assert 'go on' not in ''.join(lines)  # There is no worktree to go on in.


@pytest.mark.parametrize('name', ['Addresses', 'Upstream-Status'])
@pytest.mark.parametrize('value', [None, ''])
def test_a_missing_trailer(series, name, value):
  path = series.track / 'Add-new.patch'
  text = path.read_text()
  new = '' if value is None else f'{name}: {value}\n'
  path.write_text(re.sub(rf'^{name}: .*\n', new, text, flags=re.MULTILINE))
  assert f'Add-new: the message lacks the trailer {name}.' in problems(series)


def test_a_subject_that_is_a_sentence(series):
  patch(series, 'Add-new.patch', 'Subject: Add new', 'Subject: Add new.')
  assert 'Add-new: the subject' in problems(series)[0]


def test_a_subject_that_is_too_long(series):
  subject = 'A subject of ten words ' * 3 + 'abcd'
  assert len(subject) == 73
  series.commit_text(conftest.TEXT.format(subject=subject), '--amend')
  assert series.run('export') == 0
  assert [line for line in problems(series) if 'at most 72' in line]


def test_trailers_are_no_text(series):
  path = series.track / 'Add-new.patch'
  text = re.sub(r'\nWhat(.|\n)*with\.\n', '', path.read_text())
  text = text.replace('Adds: ', 'See-Also: one two three four\n' * 9 + 'Adds: ')
  path.write_text(text)
  assert [line for line in problems(series) if 'no pull request text' in line]


@pytest.mark.parametrize('count, verdict', [(60, 0), (61, 1)])
def test_the_limit_of_changed_lines_in_upstream_files(series, count, verdict):
  series.edit(
      'apache_beam/util.py', 'line = 2\n', 'line = 2\n' + '++ line\n' * count)
  series.write('apache_beam/large.py', conftest.LICENCE + 'x = 1\n' * 100)
  series.commit('Add many lines')
  series.edit('apache_beam/large.py', 'x = 1\n', '-- 1\n' * 100)
  series.write('apache_beam/small.py', conftest.LICENCE)
  series.commit('Change an added file a lot')
  assert series.run('export') == 0
  assert series.run('check') == verdict
  if verdict:
    (line, ) = problems(series)
    assert 'Add-many-lines: changes 61 lines' in line and 'at most 60' in line


def test_removed_lines_count_too():
  diff = (
      'diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,3 +1,2 @@\n'
      ' a\n--- b\n-c\n+++ d\n@@ -9,1 +9,1 @@\n-e\n+f\n')
  assert pull_request.changed_lines(diff) == 5


def test_a_file_that_nobody_owns(series):
  (series.layout.sdks / 'stray.py').write_text(conftest.LICENCE)
  assert problems(series) == ['sdks/stray.py: no pull request adds it.']


@pytest.mark.parametrize('text', [b'', b'a = 1\n', b'\0\xff'])
def test_a_file_without_the_licence(series, text):
  (series.layout.sdks / 'python' / 'apache_beam' / 'other.py').write_bytes(text)
  assert (
      'sdks/python/apache_beam/other.py: lacks the ASF licence header.'
      in problems(series))


def test_a_file_with_two_owners(series):
  patch(
      series,
      'Hook-into-util.patch',
      '2026-11-23\n',
      '2026-11-23\nAdds: sdks/python/apache_beam/new.py\n')
  for command in ('check', 'apply', 'status'):
    said = series.refused(command)
    assert 'new.py is added by two pull requests, Add-new and Hook-' in said


@pytest.mark.parametrize(
    'path', ['README.md', 'sdks/../../evil.py', '/evil.py'])
def test_a_file_that_is_added_elsewhere(series, path):
  patch(series, 'Add-new.patch', 'Adds: ', f'Adds: {path}\nAdds: ')
  (line, ) = problems(series)
  assert line == f'Add-new adds {path}, which is not under sdks/.'


def test_an_owned_file_that_does_not_exist(series):
  (series.layout.sdks / 'python' / 'apache_beam' / 'other.py').unlink()
  for command in ('check', 'apply', 'status'):
    said = series.refused(command)
    assert 'Change-new adds sdks/python/apache_beam/other.py, which' in said


def test_an_added_file_without_its_later_hunk(series):
  path = series.layout.sdks / 'python' / 'apache_beam' / 'new.py'
  path.write_text(path.read_text().replace('b = 22', 'b = 1'))
  said = series.refused('check')
  assert 'final text does not hold the hunks of Change-new' in said


@pytest.mark.parametrize(
    'listed, odd',
    [
        ('Add-new Change-new', 'Hook-into-util'),
        ('Add-new Change-new Hook-into-util More', 'More'),
        ('Add-new Add-new Change-new Hook-into-util', 'Add-new'),
    ])
def test_series_and_folder_disagree(series, listed, odd):
  (series.track / 'series').write_text(
      ''.join(f'{name}.patch\n' for name in listed.split()))
  (line, ) = problems(series)
  assert 'patches/smart_bucketing/series must name each file' in line
  assert f'; see to: {odd}.patch' in line


def test_no_series_file(series):
  (series.track / 'series').unlink()
  assert 'does not exist' in problems(series)[0]


def test_a_patch_that_is_no_mail(series):
  (series.track / 'Add-new.patch').write_text('nonsense\n')
  assert 'Add-new.patch is no mail' in problems(series)[0]


def test_a_broken_rule_is_told_also_if_the_series_does_not_apply(series):
  patch(series, 'Hook-into-util.patch', '\n line = 18\n', '\n line = 180\n')
  patch(series, 'Add-new.patch', 'Addresses: ', 'Address: ')
  said = '\n'.join(problems(series))
  assert 'lacks the trailer Addresses' in said and 'does not apply' in said


def test_check_leaves_beam_alone(series):
  series.write('apache_beam/mine.py', 'mine = True\n')
  before = series.git('for-each-ref'), series.git('status', '--porcelain')
  assert series.run('check') == 0
  assert before == (
      series.git('for-each-ref'), series.git('status', '--porcelain'))


def test_status_is_a_table(series, capsys):
  series.write(
      'apache_beam/fourth_test.py',
      conftest.LICENCE + 'class T:\n  def test_a(self):\n    pass\n' * 2)
  series.commit('Prüfe alles')
  assert series.run('export') == 0
  capsys.readouterr()
  assert series.run('status') == 0
  title, _, *lines = capsys.readouterr().out.splitlines()
  rows = [[cell.strip() for cell in line.strip('|').split('|')]
          for line in lines]
  assert title == (
      '**Smart bucketing** (`patches/smart_bucketing`): 20 lines without tests, '
      '2 tests')
  state = 'Not submitted, 2026-11-23'
  assert rows[0] == ['#', 'Pull request', 'Upstream', 'Code', 'Tests', 'State']
  assert rows[2:] == [
      ['1', 'Add new', '0', '11', '0', state],
      ['2', 'Change new', '2', '6', '0', state],
      ['3', 'Hook into util', '3', '3', '0', state],
      ['4', 'Prüfe alles', '0', '0', '2', state],
  ]
