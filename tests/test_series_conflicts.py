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

"""A pull request that does not apply, and moving to another release."""

import conftest
import pytest
from tools.series import git
from tools.series import state

CONFLICT = 'apache_beam/util.py'


def newer(line_9: str = 'line = 9', line_20: str = 'line = 20') -> bytes:
  """The next release, in which other lines stand."""
  text = conftest.RELEASE[CONFLICT].replace('line = 9\n', f'{line_9}\n')
  text = '# A new first line.\n' + text.replace('line = 20\n', f'{line_20}\n')
  return conftest.sdist({**conftest.RELEASE, CONFLICT: text}, '9.9.10')


def printed(said: str) -> list[str]:
  """The commands that a message says to go on with."""
  return [
      line.strip() for line in said.splitlines()
      if line.startswith(('  git ', '  python '))
  ]


def work(series):
  return series.layout.build / 'apply'


def go_on(series, said: str, mended: str) -> None:
  """Follows the message, with this text for the file in conflict."""
  show, resume, *rest = printed(said)
  assert show == 'git am --show-current-patch=diff | git apply --3way'
  patch = series.git(
      *show.split(' | ', maxsplit=1)[0].split()[1:], cwd=work(series))
  (series.layout.root / 'p').write_text(patch + '\n')
  series.git(
      'apply', '--3way', series.layout.root / 'p', cwd=work(series), fails=True)
  path = work(series) / 'sdks' / 'python' / CONFLICT
  assert '<<<<<<<' in path.read_text()
  path.write_text(mended)
  series.git('add', path, cwd=work(series))
  series.git(*resume.split()[1:], cwd=work(series))
  for command in rest:
    assert series.run(*command.split()[3:]) == 0


def test_the_message_names_pull_request_file_and_hunk(series):
  series.pin(newer(line_20='line = 200'), '9.9.10')
  said = series.refused('apply')
  assert said.startswith('series apply: Hook-into-util does not apply.\n')
  assert f'  sdks/python/{CONFLICT}, hunk 1 of 1: @@ -18,6 +18,7 @@' in said
  assert str(work(series)) in said


def test_git_is_asked_in_english(monkeypatch):
  monkeypatch.setenv('LC_ALL', 'de_DE.UTF-8')
  assert git.environment()['LC_ALL'] == 'C'


def test_the_hunk_is_counted_in_its_file(series):
  series.edit(CONFLICT, 'line = 30\n', 'line = 300\n')
  series.git('commit', '-q', '--all', '--amend', '--no-edit')
  assert series.run('export') == 0
  path = series.track / 'Hook-into-util.patch'
  path.write_bytes(
      path.read_bytes().replace(b'\n-line = 30\n', b'\n-line = 3\n'))
  said = series.refused('apply')
  assert f'{CONFLICT}, hunk 2 of 2: @@ -27,4 +28,4 @@' in said


def test_a_conflict_leaves_beam_as_it_was(series):
  head = series.git('rev-parse', 'HEAD')
  series.pin(newer(line_20='line = 200'), '9.9.10')
  series.refused('apply')
  assert series.git('rev-parse', 'HEAD') == head
  assert series.git('status', '--porcelain') == ''


def test_the_printed_way_leads_to_a_sound_series(series):
  series.pin(newer(line_20='line = 200'), '9.9.10')
  said = series.refused('apply')
  mended = (work(series) / 'sdks' / 'python' / CONFLICT).read_text().replace(
      'line = 200\n', 'line = 200\nline = 20.5\n')
  go_on(series, said, mended)
  assert series.run('check') == 0
  assert (series.source / CONFLICT).read_text() == mended
  assert not work(series).exists()
  files = series.files()
  series.wipe()
  assert series.run('apply') == 0
  assert series.run('export') == 0
  assert series.files() == files


def test_range_diff_shows_what_a_release_changed(series):
  series.pin(newer(line_20='line = 200'), '9.9.10')
  said = series.refused('apply')
  mended = (work(series) / 'sdks' / 'python' / CONFLICT).read_text().replace(
      'line = 200\n', 'line = 200\nline = 20.5\n')
  go_on(series, said, mended)
  rows = range_diff(series)
  assert [row.split()[2] for row in rows if row[0] in '123'] == ['=', '=', '!']
  # That the hunk moved by a line and stands behind another one.
  assert any('line = 200' in row for row in rows)


def range_diff(series) -> list[str]:
  ranges = []
  for ref in (state.PREVIOUS, 'HEAD'):
    base = series.git('rev-list', '--max-parents=0', ref)
    ranges.append(f'{base}..{ref}')
  return series.git('range-diff', '--no-color', *ranges).splitlines()


def test_a_release_that_only_moves_lines_is_applied_at_an_offset(series):
  series.pin(newer(), '9.9.10')
  assert series.run('apply') == 0
  rows = range_diff(series)
  assert [row.split()[2] for row in rows if row[0] in '123'] == ['='] * 3
  assert 'offset' in series.refused('check')
  assert series.run('export') == 0
  assert series.run('check') == 0


def test_a_conflict_in_a_part_is_mended_in_the_whole(series):
  series.pin(newer(line_9='line = 90'), '9.9.10')
  said = series.refused('apply', '--to', '2')
  assert 'Change-new does not apply' in said
  assert 'run `apply` without --to' in said and printed(said) == []
  assert 'Nothing to continue' in series.refused('apply', '--continue')


def test_two_conflicts_are_mended_one_after_the_other(series):
  series.pin(newer('line = 90', 'line = 200'), '9.9.10')
  series.refused('apply')
  for old, new in (('line = 90', 'line = 99'),
                   ('line = 200', 'line = 200\nline = 20.5')):
    assert 'not finished' in series.refused('apply', '--continue')
    path = work(series) / 'sdks' / 'python' / CONFLICT
    diff = series.git(
        'am', '--show-current-patch=diff', cwd=work(series)) + '\n'
    (series.layout.root / 'p').write_text(diff)
    series.git(
        'apply',
        '--reject',
        series.layout.root / 'p',
        cwd=work(series),
        fails=True)
    path.write_text(path.read_text().replace(old, new))
    path.with_name('util.py.rej').unlink()
    series.git('add', '--all', cwd=work(series))
    last = old == 'line = 200'
    series.git('am', '--continue', cwd=work(series), fails=not last)
  assert series.run('apply', '--continue') == 0
  assert series.run('export') == 0
  assert series.run('check') == 0


def test_an_aborted_am_is_nothing_to_continue(series):
  series.pin(newer(line_9='line = 90'), '9.9.10')
  series.refused('apply')
  path = work(series)
  series.git('am', '--abort', cwd=path)
  base = series.git('rev-list', '--max-parents=0', 'HEAD', cwd=path)
  series.git('reset', '-q', '--hard', base, cwd=path)
  assert 'was its `git am` aborted' in series.refused('apply', '--continue')


def test_continue_does_not_take_what_is_not_committed(series):
  series.pin(newer(line_20='line = 200'), '9.9.10')
  series.refused('apply')
  series.git('am', '--skip', cwd=work(series))
  (work(series) / 'mine.py').write_text('mine\n')
  assert 'not committed' in series.refused('apply', '--continue')
  assert (work(series) / 'mine.py').exists()


def test_without_a_conflict_there_is_nothing_to_continue(series):
  assert 'Nothing to continue' in series.refused('apply', '--continue')


def test_edits_by_hand_during_a_conflict_are_not_overwritten(series):
  series.pin(newer(line_20='line = 200'), '9.9.10')
  series.refused('apply')
  series.git('am', '--skip', cwd=work(series))
  path = series.layout.sdks / 'python' / 'apache_beam' / 'new.py'
  path.write_text('by hand\n')
  assert series.run('apply', '--continue') == 0
  assert 'new.py' in series.refused('export')
  assert path.read_text() == 'by hand\n'


def test_apply_starts_again_after_a_conflict(series):
  pin = series.layout.pin.read_text()
  series.pin(newer(line_20='line = 200'), '9.9.10')
  series.refused('apply')
  series.layout.pin.write_text(pin)
  assert series.run('apply') == 0
  series.layout.pin.write_text(pin + '# edited\n')
  assert series.run('apply') == 0
  assert not work(series).exists()


@pytest.mark.parametrize('argv', [['--to', '1', '--continue']])
def test_continue_has_no_part(series, argv):
  with pytest.raises(SystemExit):
    series.run('apply', *argv)
