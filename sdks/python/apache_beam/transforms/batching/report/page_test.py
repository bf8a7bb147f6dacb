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

import unittest
from html.parser import HTMLParser

from apache_beam.transforms.batching.report.charts import Bar
from apache_beam.transforms.batching.report.charts import BarChart
from apache_beam.transforms.batching.report.charts import Point
from apache_beam.transforms.batching.report.charts import Scatter
from apache_beam.transforms.batching.report.page import page

_EVIL = '<script src="http://x.example/">\'"&'
_BARS = BarChart(
    'Padding',
    [
        Bar('on', 1, '1.00', mean=0.5),
        Bar('off', 4, '4.00', start=2, is_reference=True),
    ],
    'A note.')
_POINTS = Scatter(
    'Cost',
    'seconds',
    'tokens',
    [
        Point('smart', 0.1, 1.1, 'cost 1.1'),
        Point('arrival', 10, 3, 'cost 3'),
        Point('bound', None, 1, 'cost 1'),
    ])


class _Parser(HTMLParser):
  """The elements, with their attributes, and the texts of a page."""
  def __init__(self, html):
    super().__init__()
    self.found, self.texts, self.open = [], [], []
    self.feed(html)
    self.close()

  def handle_starttag(self, tag, attrs):
    self.found.append((tag, dict(attrs)))
    if tag != 'meta':
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.found.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.texts.append(data)

  def all(self, tag):
    return [attributes for name, attributes in self.found if name == tag]


def _parsed(charts, figures=None, title='Title', summary='Summary.'):
  parser = _Parser(page(title, summary, charts, figures or {}))
  assert not parser.open
  return parser


class PageTest(unittest.TestCase):
  def test_bars(self):
    parsed = _parsed([_BARS])
    on, off = parsed.all('rect')
    self.assertEqual(('0.00%', '25.00%', 'fill'),
                     tuple(on[k] for k in ('x', 'width', 'class')))
    self.assertEqual(('50.00%', '50.00%', 'pale'),
                     tuple(off[k] for k in ('x', 'width', 'class')))
    self.assertEqual(['12.50%'], [mark['cx'] for mark in parsed.all('circle')])
    self.assertEqual(['on: 1.00', 'off: 4.00'],
                     [row['title'] for row in parsed.all('div')])
    for text in ('Title', 'Summary.', 'Padding', 'A note.', 'on', '4.00'):
      self.assertIn(text, parsed.texts)

  def test_an_empty_bar_can_be_seen(self):
    parsed = _parsed([BarChart('None', [Bar('a', 0, '0')])])
    self.assertEqual('0.40%', parsed.all('rect')[0]['width'])

  def test_points_are_labelled_and_have_tooltips(self):
    parsed = _parsed([_POINTS])
    self.assertEqual(2, len(parsed.all('circle')))
    for text in ('smart', 'smart: cost 1.1', 'bound: cost 1', 'seconds'):
      self.assertIn(text, parsed.texts)
    # The right one has its label to its left.
    anchors = [
        text['text-anchor'] for text in parsed.all('text')
        if text.get('class') != 'muted'
    ]
    self.assertEqual(['start', 'end'], anchors)

  def test_text_is_text(self):
    charts = [
        BarChart(_EVIL, [Bar(_EVIL, 1, _EVIL)], _EVIL),
        Scatter(
            _EVIL,
            _EVIL,
            _EVIL, [
                Point(_EVIL, 1, 2, _EVIL),
                Point(_EVIL, None, 2, _EVIL),
            ],
            _EVIL)
    ]
    parsed = _parsed(charts, {_EVIL: {_EVIL: _EVIL}}, _EVIL, _EVIL)
    plain = _parsed([_BARS, _POINTS], {'a': {'b': 'c'}})
    self.assertEqual({tag
                      for tag, _ in plain.found},
                     {tag
                      for tag, _ in parsed.found})
    # 3 of the page, 4 of each chart, 2 of the points, 3 of the figures.
    self.assertEqual(16, parsed.texts.count(_EVIL))

  def test_long_values_are_set_as_text(self):
    html = page('t', '', [], {'a': {'short': '1.5', 'long': 'word ' * 20}})
    self.assertIn('<dd>1.5</dd>', html)
    self.assertIn('<dd class="text">word ', html)

  def test_loads_nothing(self):
    html = page('t', '', [_BARS, _POINTS], {'a': {'b': 'c'}})
    for word in ('src=', 'href=', 'url(', 'http', '@import', '<script'):
      self.assertNotIn(word, html)


if __name__ == '__main__':
  unittest.main()
