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

from apache_beam.ml.inference.iterative.durable.poll_schedule import EngineSpeed
from apache_beam.ml.inference.iterative.durable.requests import DurableRequest
from apache_beam.ml.inference.iterative.durable.requests import RequestKey
from apache_beam.ml.inference.iterative.durable.restriction import new_restriction
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.ml.inference.iterative.result_stream import ResultStream
from apache_beam.ml.inference.iterative.session import Delta


def _request(limit=None, **options):
  """One that was submitted at the time 0."""
  options = IterativeOptions(mode='durable', **options)
  stream = ResultStream('a', 'prompt', None, options, 0.0, lambda: 0.0)
  restriction, key = new_restriction('a'), RequestKey('owner', 'a', 1)
  request = DurableRequest(key, stream, restriction, 0.0, options, limit)
  request.was_submitted(None, 0.0)
  return request


def _take(request, tokens, started, made):
  delta = Delta(tokens=tokens, started=started, made=made)
  request.stream.take(delta)
  request.chunk_taken(delta)


class EngineSpeedTest(unittest.TestCase):
  def test_the_next_chunk_is_due_at_the_speed_of_the_last(self):
    request = _request()
    _take(request, 1, 0.5, 0.5)
    self.assertAlmostEqual(EngineSpeed().due_at(request, 0.6), 0.5 + 8 * 0.05)
    _take(request, 8, 0.6, 1.3)
    self.assertAlmostEqual(EngineSpeed().due_at(request, 1.4), 1.3 + 8 * 0.1)

  def test_the_last_chunk_is_shorter(self):
    request = _request(limit=12)
    _take(request, 1, 0.1, 0.1)
    _take(request, 8, 0.2, 0.9)
    self.assertAlmostEqual(EngineSpeed().due_at(request, 1.0), 0.9 + 3 * 0.1)

  def test_an_unread_part_shows_that_it_is_slower(self):
    request = _request()
    _take(request, 1, 0.0, 0.0)
    request.unread = Delta(tokens=4, started=0.1, made=0.4)
    self.assertAlmostEqual(EngineSpeed().due_at(request, 0.45), 0.4 + 4 * 0.1)

  def test_a_chunk_is_due_after_some_time_at_the_latest(self):
    request = _request(chunk_secs=1.2)
    _take(request, 1, 0.0, 0.0)
    request.unread = Delta(tokens=2, started=1.0, made=2.0)
    self.assertAlmostEqual(EngineSpeed().due_at(request, 1.5), 1.0 + 1.2)

  def test_a_slow_request_is_due_when_it_is_worth_a_checkpoint(self):
    request = _request()
    _take(request, 1, 0.0, 0.0)
    request.unread = Delta(tokens=2, started=1.0, made=2.0)
    self.assertAlmostEqual(EngineSpeed().due_at(request, 2.1), 2.0 + 6 * 1.0)
    request.owed = 30
    self.assertAlmostEqual(EngineSpeed().due_at(request, 2.1), 2.0 + 14 * 1.0)

  def test_after_a_poll_without_a_chunk_the_next_is_longer(self):
    request = _request()
    _take(request, 1, 0.5, 0.5)
    request.owed = 3
    self.assertAlmostEqual(EngineSpeed().due_at(request, 0.6), 0.5 + 11 * 0.05)
    _take(request, 10, 0.6, 1.05)
    self.assertEqual(request.owed, 1)

  def test_a_silent_request_is_polled_less_and_less(self):
    request, speed, now, times = _request(), EngineSpeed(), 0.0, 0
    while now < 60:
      due = speed.due_at(request, now)
      self.assertGreater(due, now)
      self.assertLessEqual(due - now, max(0.05, 0.2 * now + 1e-6, 0.02))
      now, times = due, times + 1
    self.assertLess(times, 60)

  def test_learns_how_soon_a_first_token_comes(self):
    speed = EngineSpeed()
    for _ in range(30):
      speed.first(0.2)
    self.assertAlmostEqual(speed.first_secs, 0.2, places=3)
    speed.first(0.01)
    self.assertAlmostEqual(speed.first_secs, 0.01)
    # Many were pending; the next may not be.
    for _ in range(30):
      speed.first(60.0)
    self.assertLessEqual(speed.first_secs, 0.25)


if __name__ == '__main__':
  unittest.main()
