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

"""The browser that tests of web pages use, and how it is installed."""

import os
from pathlib import Path

import pytest
from tools import chromium
from tools.layout import ToolError


def _apt_get(folder: Path, script: str) -> None:
  program = folder / 'apt-get'
  program.write_text(f'#!/bin/sh\necho "$@" >> {folder}/said\n{script}\n')
  program.chmod(0o755)


@pytest.fixture(name='programs')
def _programs(tmp_path: Path, monkeypatch):
  """A machine with no other programs than apt-get."""
  monkeypatch.setenv('PATH', str(tmp_path))
  monkeypatch.setattr(os, 'geteuid', lambda: 0)
  return tmp_path


def test_installs_what_is_missing_once(programs: Path):
  browser = programs / 'chromium'
  _apt_get(
      programs,
      f'[ "$1" = update ] || {{ echo "#!/bin/sh" > {browser}; '
      f'/bin/chmod +x {browser}; }}')
  assert chromium.find() is None
  for _ in range(2):
    chromium.install()
    assert chromium.find() == str(browser)
  said = (programs / 'said').read_text().splitlines()
  assert [line.split()[0] for line in said] == ['update', 'install']
  assert said[1].endswith(' chromium')


def test_a_failure_names_the_command_and_the_remedy(programs: Path):
  _apt_get(programs, 'exit 100')
  with pytest.raises(ToolError, match='apt-get update.*Install Chromium'):
    chromium.install()
  (programs / 'apt-get').unlink()
  with pytest.raises(ToolError, match='apt-get update.*Install Chromium'):
    chromium.install()
  with pytest.raises(ToolError, match='Chromium is missing'):
    chromium.Browser()


def test_reports_what_a_page_does_wrong(tmp_path: Path):
  if not chromium.find():
    if os.environ.get('CI') == 'true':
      pytest.fail('Chromium is missing: CI installs it.')
    pytest.skip('Chromium is missing; install it (Debian: chromium).')
  page = tmp_path / 'page.html'
  with chromium.Browser() as browser:
    page.write_text('<title>good</title>')
    browser.open(page.as_uri())
    assert not browser.problems
    page.write_text(
        '<meta http-equiv=Content-Security-Policy content="img-src \'none\'">'
        '<img src="x.png"><script>missing()</script>')
    browser.open(page.as_uri())
    loaded = 'new Promise((done) => document.readyState === "complete" ? '
    browser.evaluate(f'{loaded}done() : addEventListener("load", done))')
    found = ' '.join(browser.problems)
    with pytest.raises(ToolError, match='not defined'):
      browser.evaluate('missing()')
  assert 'missing is not defined' in found
  assert 'Content Security Policy' in found
