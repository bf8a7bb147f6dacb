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

"""fetch: the pinned release, downloaded once and checked by its hash."""

import shutil

import conftest
import pytest


@pytest.fixture
def shelf(checkout, monkeypatch, tmp_path):
  """A folder that pip takes the release from; the cache is empty."""
  folder = tmp_path / 'shelf'
  folder.mkdir()
  data = conftest.sdist(conftest.RELEASE)
  checkout.pin(data).unlink()
  (folder / 'apache_beam-9.9.9.tar.gz').write_bytes(data)
  monkeypatch.setenv('PIP_FIND_LINKS', str(folder))
  return folder


def cached(checkout) -> list:
  return [path for path in checkout.layout.cache.rglob('*') if path.is_file()]


def test_a_release_is_downloaded_once(checkout, shelf):
  assert checkout.run('fetch') == 0
  shutil.rmtree(shelf)
  assert checkout.run('fetch') == 0
  (only, ) = cached(checkout)
  assert only.read_bytes() == conftest.sdist(conftest.RELEASE)


def test_a_truncated_cache_entry_is_replaced(checkout, shelf):
  assert shelf.exists()
  entry = checkout.pin(conftest.sdist(conftest.RELEASE))
  whole = entry.read_bytes()
  entry.write_bytes(whole[:100])
  assert checkout.run('fetch') == 0
  assert entry.read_bytes() == whole


@pytest.mark.parametrize('length', [100, -1])
def test_a_truncated_download_is_refused(checkout, shelf, length):
  (sdist, ) = shelf.iterdir()
  sdist.write_bytes(sdist.read_bytes()[:length])
  said = checkout.refused('fetch')
  assert 'Could not download apache-beam 9.9.9 with the sha256' in said
  assert cached(checkout) == []
  assert list((checkout.layout.cache / 'sdist').iterdir()) == []


def test_another_file_of_that_name_is_refused(checkout, shelf):
  (sdist, ) = shelf.iterdir()
  files = {**conftest.RELEASE, 'apache_beam/evil.py': 'evil = True\n'}
  sdist.write_bytes(conftest.sdist(files))
  said = checkout.refused('fetch')
  assert 'with the sha256' in said and 'HASH' in said.upper()
  assert cached(checkout) == []


def test_without_network_and_cache_the_message_says_what_to_do(checkout, shelf):
  shutil.rmtree(shelf)
  shelf.mkdir()
  assert 'copy the cache of another machine' in checkout.refused('apply')


def test_a_warm_cache_needs_no_network(series):
  for command in ('fetch', 'apply', 'export', 'check', 'status'):
    assert series.run(command) == 0


@pytest.mark.parametrize(
    'old, new',
    [
        ('prefix = "sdks/python"\n', ''),
        ('[upstream]', 'colour = "red"\n[upstream]\ncolour = "red"'),
        ('[upstream]', '[downstream]'),
        ('"2026-10-01T09:00:00+00:00"', '2026-10-01T09:00:00+00:00'),
        ('[upstream]', '[upstream'),
    ])
def test_a_broken_pin_is_refused(checkout, old, new):
  text = checkout.layout.pin.read_text()
  assert old in text
  checkout.layout.pin.write_text(text.replace(old, new))
  said = checkout.refused('fetch')
  assert 'expected a table [upstream] with exactly package, version' in said


def test_a_missing_pin_is_refused(checkout):
  checkout.layout.pin.unlink()
  assert 'expected a table [upstream]' in checkout.refused('fetch')
