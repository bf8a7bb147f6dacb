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

"""The report in a browser: wide and narrow, light and dark, without network."""

import os
import re
from pathlib import Path

import pytest
from tools import chromium

from apache_beam.transforms.batching.report.charts import Point
from apache_beam.transforms.batching.report.charts import Scatter
from apache_beam.transforms.batching.report.of_metrics import charts_of
from apache_beam.transforms.batching.report.page import page

_LONG = 'A transform with a label that is longer than others <b>are</b>'
_VALUES = {
    'real_size': 100_000,
    'padded_size': 125_000,
    'arrival_order_padded_size': 300_000,
    'batches_full': 1234,
    'batches_bundle_end': 5,
    'predicted_msec': 900_000,
    'actual_msec': 1_200_000,
    **{
        f'wait_msec_below_{1 << power}': power
        for power in range(17)
    },
}
for _name in ('batch_size',
              'msec_per_batch',
              'ttft_msec',
              'ttft_from_arrival_msec',
              'inter_chunk_msec',
              'inter_token_msec'):
  _VALUES |= {
      f'{_name}.{part}': value
      for part, value in (('sum', 100_000), ('count', 10), ('min', 2),
                          ('max', 65_000))
  }
# Two are at the same place, and two close to it.
_POINTS = [
    Point('arrival', 141.5, 3.43, 'cost 3.43'),
    Point('beam_default', 1.37, 1.08, 'cost 1.08'),
    Point('best_boundaries', 1.37, 1.08, 'cost 1.08'),
    Point('smart', 0.017, 1.15, 'cost 1.15'),
    Point('smart_cost', 1.16, 1.04, 'cost 1.04'),
    Point('offline_bound', None, 1.02, 'cost 1.02'),
]

_LOADED = '''new Promise((done) => document.readyState === "complete" ?
  done() : addEventListener("load", done))'''
# Places of everything with a text of its own.
_TEXTS = '''[...document.querySelectorAll('body *')]
  .filter((e) => !['STYLE', 'TITLE', 'title'].includes(e.tagName)
    && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
  .map((e) => { const r = e.getBoundingClientRect();
    return [e.textContent, r.left, r.right, r.top, r.bottom]; })'''
_LABELS = '''[...document.querySelectorAll('svg text:not(.muted)')].map((e) => {
  const r = e.getBoundingClientRect();
  return [e.textContent, r.left, r.right, r.top, r.bottom]; })'''
_REQUESTS = '''performance.getEntriesByType('resource').map((e) => e.name)'''


@pytest.fixture(name='url', scope='module')
def _url(tmp_path_factory) -> str:
  if not chromium.find():
    if os.environ.get('CI') == 'true':
      pytest.fail('Chromium is missing: CI installs it.')
    pytest.skip('Chromium is missing; install it (Debian: chromium).')
  scatter = Scatter(
      'Cost against latency', 'median latency (s)', 'cost ratio', _POINTS)
  transforms = {'Embed': _VALUES, _LONG: _VALUES, 'Third': _VALUES}
  path: Path = tmp_path_factory.mktemp('report') / 'report.html'
  figures = {
      name: {
          'flushed because of': 'full 1,234, bundle end 5'
      }
      for name in transforms
  }
  path.write_text(
      page('Report', 'A summary.', [*charts_of(transforms), scatter], figures),
      encoding='utf-8')
  return path.as_uri()


@pytest.mark.parametrize('is_dark', (False, True))
@pytest.mark.parametrize('width', (1280, 390))
def test_all_of_it_can_be_read(url: str, width: int, is_dark: bool):
  with chromium.Browser(width, 900, is_dark) as browser:
    browser.open(url)
    browser.evaluate(_LOADED)
    texts = browser.evaluate(_TEXTS)
    labels = browser.evaluate(_LABELS)
    overflow = browser.evaluate('document.documentElement.scrollWidth')
    requests = browser.evaluate(_REQUESTS)
    back = browser.evaluate('getComputedStyle(document.body).backgroundColor')
    text = browser.evaluate('getComputedStyle(document.body).color')
    problems = browser.problems
  assert overflow <= width
  for words, left, right, top, bottom in texts:
    assert left >= 0 and right <= width, words
    assert right > left and bottom > top, words
  shown = [words for words, *_ in texts]
  assert _LONG in shown and all(point.label in shown for point in _POINTS)
  assert {label
          for label, *_ in labels
          } == {point.label
                for point in _POINTS if point.x is not None}
  # No label of a point covers another.
  for i, (one, left, right, top, bottom) in enumerate(labels):
    for other, its_left, its_right, its_top, its_bottom in labels[:i]:
      assert (
          right <= its_left or its_right <= left or bottom <= its_top + 1 or
          its_bottom <= top + 1), (one, other)
  assert not problems
  # The page asks for nothing.
  assert not requests
  dark, light = (back, text) if is_dark else (text, back)
  assert max(_channels(dark)) < 64 and min(_channels(light)) > 192


def _channels(color: str) -> list[int]:
  return [int(channel) for channel in re.findall(r'\d+', color)][:3]
