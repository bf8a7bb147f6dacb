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

from hypothesis import given
from hypothesis import strategies as st

from apache_beam.ml.inference.iterative.durable_pace import Pace
from apache_beam.ml.inference.iterative.durable_pace import Returns
from apache_beam.ml.inference.iterative.durable_pace import WaitingRoom
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.ml.inference.iterative.result_stream import ResultStream
from apache_beam.ml.inference.iterative.session import Delta
from apache_beam.ml.inference.iterative.texts_in_flight import TextInFlight
from apache_beam.ml.inference.iterative.texts_in_flight import TextKey
from apache_beam.ml.inference.iterative.transcript_restriction import new_restriction


def _text(limit=None, **options):
  """One that was submitted at the time 0."""
  options = IterativeOptions(mode='durable', **options)
  stream = ResultStream('a', 'prompt', None, options, 0.0, lambda: 0.0)
  restriction, key = new_restriction('a'), TextKey('owner', 'a', 1)
  text = TextInFlight(key, stream, restriction, None, 0.0, options, limit)
  text.was_submitted(0.0)
  return text


def _take(text, tokens, started, made):
  delta = Delta(tokens=tokens, started=started, made=made)
  text.stream.take(delta)
  text.took(delta)


class PaceTest(unittest.TestCase):
  def test_the_next_chunk_is_due_by_the_pace_of_the_last(self):
    text = _text()
    _take(text, 1, 0.5, 0.5)
    self.assertAlmostEqual(Pace().due_at(text, 0.6), 0.5 + 8 * 0.05)
    _take(text, 8, 0.6, 1.3)
    self.assertAlmostEqual(Pace().due_at(text, 1.4), 1.3 + 8 * 0.1)

  def test_the_last_chunk_is_shorter(self):
    text = _text(limit=12)
    _take(text, 1, 0.1, 0.1)
    _take(text, 8, 0.2, 0.9)
    self.assertAlmostEqual(Pace().due_at(text, 1.0), 0.9 + 3 * 0.1)

  def test_what_waits_tells_that_it_is_slower(self):
    text = _text()
    _take(text, 1, 0.0, 0.0)
    text.waiting = Delta(tokens=4, started=0.1, made=0.4)
    self.assertAlmostEqual(Pace().due_at(text, 0.45), 0.4 + 4 * 0.1)

  def test_a_chunk_is_due_after_some_time_at_the_latest(self):
    text = _text(chunk_secs=1.2)
    _take(text, 1, 0.0, 0.0)
    text.waiting = Delta(tokens=2, started=1.0, made=2.0)
    self.assertAlmostEqual(Pace().due_at(text, 1.5), 1.0 + 1.2)

  def test_a_slow_text_is_due_when_it_is_worth_a_checkpoint(self):
    text = _text()
    _take(text, 1, 0.0, 0.0)
    text.waiting = Delta(tokens=2, started=1.0, made=2.0)
    self.assertAlmostEqual(Pace().due_at(text, 2.1), 2.0 + 6 * 1.0)
    text.owed = 30
    self.assertAlmostEqual(Pace().due_at(text, 2.1), 2.0 + 14 * 1.0)

  def test_what_came_back_without_a_chunk_waits_for_a_longer_one(self):
    text = _text()
    _take(text, 1, 0.5, 0.5)
    text.owed = 3
    self.assertAlmostEqual(Pace().due_at(text, 0.6), 0.5 + 11 * 0.05)
    _take(text, 10, 0.6, 1.05)
    self.assertEqual(text.owed, 1)

  def test_silence_is_asked_less_and_less(self):
    text, pace, now, times = _text(), Pace(), 0.0, 0
    while now < 60:
      due = pace.due_at(text, now)
      self.assertGreater(due, now)
      self.assertLessEqual(due - now, max(0.05, 0.2 * now + 1e-6, 0.02))
      now, times = due, times + 1
    self.assertLess(times, 60)

  def test_learns_how_soon_a_first_token_comes(self):
    pace = Pace()
    for _ in range(30):
      pace.first(0.2)
    self.assertAlmostEqual(pace.first_secs, 0.2, places=3)
    pace.first(0.01)
    self.assertAlmostEqual(pace.first_secs, 0.01)
    # Many waited for a place; the next may not have to.
    for _ in range(30):
      pace.first(60.0)
    self.assertLessEqual(pace.first_secs, 0.25)


class ReturnsTest(unittest.TestCase):
  @given(st.lists(st.floats(0.05, 10), min_size=1, max_size=40))
  def test_texts_come_back_together(self, dues):
    returns = Returns()
    times = [returns.at(due, 0.0) for due in dues]
    for due, at in zip(dues, times):
      self.assertLessEqual(at - due, 0.06 + 1e-9)
      self.assertLessEqual(due - at, 0.025 + 1e-9)
    apart = sorted(set(times))
    for one, other in zip(apart, apart[1:]):
      self.assertGreater(other - one, 0.025 - 1e-9)

  def test_no_text_comes_back_at_once(self):
    returns, now = Returns(), 1.0
    for _ in range(10):
      at = returns.at(now + 0.02, now)
      self.assertGreaterEqual(at - now, 0.01 - 1e-9)
      now = at

  def test_few_bundles_for_texts_that_are_out_of_step(self):
    returns = Returns()
    times = {returns.at(1 + 0.001 * i, 0.0) for i in range(1000)}
    self.assertLessEqual(len(times), 40)

  def test_what_has_passed_is_not_waited_for(self):
    returns = Returns()
    returns.at(1.0, 0.0)
    self.assertEqual(returns.at(1.005, 1.002), 1.005)


class WaitingRoomTest(unittest.TestCase):
  def test_a_text_comes_back_when_its_place_is_free(self):
    room = WaitingRoom()
    room.ended(4.0)
    self.assertEqual([room.comes(str(i), 1.0) for i in range(3)], [0, 1, 2])
    self.assertAlmostEqual(room.comes_back('0', 0.5, 1, 1.0), 4.5)
    self.assertAlmostEqual(room.comes_back('2', 0.0, 2, 4.0), 8.0)
    # It should be free, and is not.
    self.assertAlmostEqual(room.comes_back('0', 0.5, 1, 4.5), 4.55)
    self.assertAlmostEqual(room.comes_back('0', 0.5, 1, 5.5), 5.7)
    self.assertEqual([room.leaves('0'), room.leaves('0')], [1, 0])
    self.assertEqual(room.comes('2', 9.0), 1)
    self.assertEqual(room.leaves('2'), 2)

  def test_until_a_text_has_ended_it_may_be_short(self):
    room = WaitingRoom()
    room.comes('a', 0.0)
    self.assertAlmostEqual(room.comes_back('a', 0.0, 1, 0.0, 0.7), 0.7)
    self.assertAlmostEqual(room.comes_back('a', 0.0, 1, 0.0, 200.0), 2.0)
    self.assertAlmostEqual(room.comes_back('a', 0.0, 1, 3.0), 3.6)
    room.ended(2.5)
    self.assertAlmostEqual(room.comes_back('a', 0.0, 1, 0.0, 200.0), 2.5)

  def test_what_went_to_another_worker_is_forgotten(self):
    room = WaitingRoom()
    room.comes('gone', 0.0)
    room.sweep(1.0)
    self.assertEqual((room.back_at('gone'), room.leaves('gone')), (0.0, 0))


if __name__ == '__main__':
  unittest.main()
