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

"""Tests of what the live page shows."""

import unittest

from hypothesis import given
from hypothesis import strategies as st

from apache_beam.examples.inference.iterative_live_page.board import ITERATIVE
from apache_beam.examples.inference.iterative_live_page.board import ONE_SHOT
from apache_beam.examples.inference.iterative_live_page.board import Board


def piece(index, text='word ', way=ITERATIVE, prompt=0, **more):
  return {
      'prompt': prompt,
      'way': way,
      'index': index,
      'text': text,
      'tokens': 1,
      'finish_reason': None,
      'error': None,
      **more
  }


class Clock:
  now = 100.0

  def __call__(self):
    return self.now


class BoardTest(unittest.TestCase):
  def setUp(self):
    self.clock = Clock()
    self.board = Board(['one', 'two'], {}, 8, self.clock)

  def lane(self, way=ITERATIVE, prompt=0):
    return next(
        lane for lane in self.board.snapshot()['lanes']
        if (lane['way'], lane['prompt']) == (way, prompt))

  @given(st.data())
  def test_any_order_and_any_repetition_make_the_same_text(self, data):
    texts = data.draw(
        st.lists(st.text('ab\n', max_size=3), min_size=1, max_size=8))
    pieces = [piece(i, text) for i, text in enumerate(texts)]
    pieces[-1]['finish_reason'] = 'stop'
    again = data.draw(st.lists(st.sampled_from(pieces)))
    self.setUp()
    seen = ''
    for one in data.draw(st.permutations(pieces + again)):
      change = self.board.apply(one)
      seen += change['added'] if change else ''
      self.assertTrue(''.join(texts).startswith(seen))
      self.assertEqual(self.lane()['added'], seen)
    self.assertEqual(seen, ''.join(texts))
    self.assertEqual(self.lane()['tokens'], len(texts))
    self.assertEqual(self.lane()['pieces'], len(texts))
    self.assertEqual(self.lane()['finish_reason'], 'stop')

  def test_times_count_from_the_start(self):
    self.assertIsNone(self.lane()['elapsed'])
    self.board.apply({'prompt': 0, 'way': ITERATIVE, 'start': True})
    self.clock.now += 2
    # Tried again.
    self.board.apply({'prompt': 0, 'way': ITERATIVE, 'start': True})
    self.assertEqual(self.lane()['elapsed'], 2)
    self.assertIsNone(self.lane()['first'])
    self.board.apply(piece(0))
    self.clock.now += 3
    self.board.apply(piece(1, finish_reason='length'))
    self.clock.now += 5
    self.assertEqual(self.lane()['first'], 2)
    self.assertEqual(self.lane()['elapsed'], 5)

  def test_an_empty_end_is_no_first_token(self):
    self.board.apply(
        piece(0, '', tokens=0, finish_reason='error', error='engine: died'))
    self.assertIsNone(self.lane()['first'])
    self.assertEqual(self.lane()['error'], 'engine: died')

  def test_prompts_and_ways_are_apart(self):
    self.board.apply(piece(0, 'a', ONE_SHOT, 1))
    self.assertEqual(self.lane(ONE_SHOT, 1)['added'], 'a')
    self.assertEqual(self.lane(ITERATIVE, 1)['pieces'], 0)
    self.assertEqual(self.lane(ONE_SHOT, 0)['pieces'], 0)

  def test_a_bad_message_is_named_and_changes_nothing(self):
    before = self.board.snapshot()
    for message, what in (
        ([], 'object'),
        (piece(0, prompt=2), 'prompt=2'),
        (piece(0, prompt=True), 'prompt=True'),
        (piece(0, way='both'), "way='both'"),
        (piece(0, way=['iterative']), 'way='),
        (piece(-1), 'index=-1'),
        (piece(1.0), 'index=1.0'),
        (piece(10**9), 'index=1000000000'),
        (piece(0, None), 'text=None'),
        (piece(0, 'x' * 100_001), 'text='),
        (piece(0, tokens='1'), "tokens='1'"),
        (piece(0, finish_reason=1), 'finish_reason=1'),
        (piece(0, error='x' * 2_001), 'error='),
        ({
            'prompt': 0, 'way': ITERATIVE, 'start': 'yes'
        }, 'index=None')):
      with self.subTest(what), self.assertRaisesRegex(ValueError, what):
        self.board.apply(message)
    self.assertEqual(self.board.snapshot(), before)

  def test_a_text_is_bounded_whether_it_comes_in_order_or_not(self):
    for step in (1, 2):
      self.setUp()
      with self.assertRaisesRegex(ValueError, 'longer than 100000'):
        for index in range(1, 100, step):
          self.board.apply(piece(index - step + 1, 'x' * 10_000))

  def test_nothing_follows_the_end(self):
    self.board.apply(piece(2, 'late'))
    self.board.apply(piece(0, 'all', finish_reason='stop'))
    self.assertIsNone(self.board.apply(piece(1)))
    self.assertEqual(self.lane()['added'], 'all')


if __name__ == '__main__':
  unittest.main()
