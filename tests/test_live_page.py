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

"""The live page of iterative inference in a browser, fed by Prism."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tools import chromium
from tools.layout import here

from apache_beam.examples.inference.iterative_live_page.board import ITERATIVE
from apache_beam.examples.inference.iterative_live_page.board import ONE_SHOT
from apache_beam.testing.inference.clock_session import clock_text
from apache_beam.testing.inference.clock_session import clock_token_ids

_PRISM = here().build / 'bin' / 'prism'
_TOKENS = 40
# Markup, which the page must show as text.
_PROMPTS = ['<b>bold</b><script>document.title = "taken"</script>', 'A tale.']

_STATE = '''({
  status: document.body?.dataset.status ?? 'loading',
  lanes: [...document.querySelectorAll('.lane')].map((lane) => [
    lane.dataset.way, Number(lane.dataset.prompt), lane.dataset.state,
    Number(lane.querySelector('.bar').getAttribute('aria-valuenow')),
    lane.querySelector('.text').textContent])})'''

_SHOWN_PROMPTS = '''
  [...document.querySelectorAll('h3')].map((h) => h.lastChild.textContent)'''


@pytest.fixture(name='needs')
def _needs():
  missing = [
      f'{name} is missing; {remedy}.' for name, is_there, remedy in (
          (_PRISM, _PRISM.exists(), 'install Go and run make build'),
          ('Chromium', chromium.find(), 'install it (Debian: chromium)'))
      if not is_there
  ]
  if missing:
    fail = pytest.fail if os.environ.get('CI') == 'true' else pytest.skip
    fail(' '.join(missing))


@contextlib.contextmanager
def _example(tmp_path: Path, *flags: str):
  """The command that a user starts, and the address that it prints."""
  prompts, log = tmp_path / 'prompts.txt', tmp_path / 'log.txt'
  prompts.write_text('\n'.join(_PROMPTS), encoding='utf-8')
  command = [
      *(sys.executable, '-m'),
      'apache_beam.examples.inference.iterative_live_page',
      f'--prompts={prompts}',
      f'--max_tokens={_TOKENS}',
      '--rate=10',
      '--experiments=iterative_inference',
      '--runner=PrismRunner',
      f'--prism_location={_PRISM}',
      *flags
  ]
  with log.open('w') as errors, subprocess.Popen(
      command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
    try:
      url = None
      while url is None:
        line = process.stdout.readline()
        assert line, log.read_text()
        url = re.search(r'http://127\.0\.0\.1:\d+/', line)
      yield process, url.group(), log
    finally:
      # Takes Prism with it.
      process.send_signal(signal.SIGINT)
      try:
        process.wait(60)
      finally:
        process.kill()


def _samples(browser, log: Path, shots: Path | None = None):
  """The states that the page was seen in, the last one when all was done."""
  samples, deadline = [], time.monotonic() + 120
  while not samples or samples[-1]['status'] not in ('done', 'failed'):
    assert time.monotonic() < deadline, (samples[-1], log.read_text())
    samples.append(browser.evaluate(_STATE))
    if shots and _is_halfway(samples[-1]):
      browser.screenshot(shots / 'middle.png')
      shots = None
    time.sleep(0.02)
  return samples


def _lanes(sample, way: str):
  return {lane[1]: lane[2:] for lane in sample['lanes'] if lane[0] == way}


def _is_halfway(sample) -> bool:
  tokens = [lane[1] for lane in _lanes(sample, ITERATIVE).values()]
  return bool(tokens) and _TOKENS / 4 < min(tokens) and max(tokens) < _TOKENS


def test_texts_grow_on_the_page(needs, tmp_path: Path):
  with _example(tmp_path) as (process, url, log), chromium.Browser() as browser:
    browser.open(url)
    samples = _samples(browser, log, tmp_path)
    browser.screenshot(tmp_path / 'end.png')
    title = browser.evaluate('document.title')
    shown = browser.evaluate(_SHOWN_PROMPTS)
    problems = browser.problems
    process.send_signal(signal.SIGINT)
    told = process.stdout.read()
    assert process.wait(60) == 130, log.read_text()

  whole = {
      number: clock_text(clock_token_ids(prompt, 0, _TOKENS))
      for number, prompt in enumerate(_PROMPTS)
  }
  for way in (ONE_SHOT, ITERATIVE):
    assert _lanes(samples[-1], way) == {
        number: ['length', _TOKENS, text]
        for number, text in whole.items()
    }
    for before, after in zip(samples, samples[1:]):
      for number, (_, _, text) in _lanes(before, way).items():
        assert _lanes(after, way)[number][2].startswith(text)
  # Seen half written, while the other way had nothing to show.
  counts = {
      tokens
      for sample in samples
      for _, tokens, _ in _lanes(sample, ITERATIVE).values()
  }
  assert len(counts - {0, _TOKENS}) > 3
  assert any(
      _is_halfway(sample) and all(
          text == '' for _, _, text in _lanes(sample, ONE_SHOT).values())
      for sample in samples)
  assert shown == _PROMPTS
  assert title == 'Iterative inference, live' and not problems
  assert f'iterative: first token after ' in told
  assert (tmp_path / 'middle.png').stat().st_size > 10_000


def test_who_comes_late_sees_all_of_it(needs, tmp_path: Path):
  with _example(tmp_path, '--start_at_once') as (process, url, log):
    line = ''
    while not line.startswith('Press'):
      line = process.stdout.readline()
      assert line, log.read_text()
    with chromium.Browser(is_dark=True) as browser:
      browser.open(url)
      last = _samples(browser, log)[-1]
      back = browser.evaluate('getComputedStyle(document.body).backgroundColor')
      assert not browser.problems
  assert all(lane[2:4] == ['length', _TOKENS] for lane in last['lanes'])
  # Dark where that is preferred.
  assert max(map(int, re.findall(r'\d+', back))) < 64
