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

import dataclasses
import itertools
import unittest

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from apache_beam.ml.inference.iterative.durable.transitions_test import TransitionsTestCase
from apache_beam.ml.inference.iterative.durable.transitions_test import generates_for
from apache_beam.ml.inference.iterative.in_flight_request import seed_at
from apache_beam.testing.inference.clock_session import ClockSession


class LimitsTest(TransitionsTestCase):
  def test_overdue(self):
    transitions = self.worker(request_timeout_secs=1.0)
    restriction = self.restriction()
    chunks = self.to_the_end(transitions, restriction)
    self.assertEqual(chunks[-1].error_kind, 'timeout')
    self.assertLess(sum(len(c.token_ids) for c in chunks), 64)
    self.assertFalse(generates_for(transitions.handler.sessions[0], 'a'))

  def test_overdue_though_chunks_are_always_there(self):
    transitions = self.worker(tokens=200, request_timeout_secs=2.0)
    restriction, chunk, begun = self.restriction(), None, self.now
    while not restriction.is_finished:
      # A runner that polls when it is asked to.
      chunk, restriction = self.advance(transitions, restriction)
      if not restriction.is_finished:
        self.now = max(
            self.now, transitions.defer(restriction, chunk is not None))
    self.assertEqual(chunk.error_kind, 'timeout')
    self.assertLess(self.now - begun, 3.0)
    self.assertFalse(generates_for(transitions.handler.sessions[0], 'a'))

  def test_the_time_limit_holds_across_workers(self):
    first = self.worker(request_timeout_secs=2.0)
    restriction, chunks, begun = self.restriction(), [], self.now
    while len(chunks) < 2:
      self.now += 0.05
      chunk, restriction = self.advance(first, restriction)
      chunks += [chunk] if chunk else []
    transitions = self.worker(request_timeout_secs=2.0)
    chunks = self.to_the_end(transitions, restriction, chunks=chunks)
    self.assertEqual(chunks[-1].error_kind, 'timeout')
    self.assertAlmostEqual(self.now - begun, 2.1, delta=0.11)

  def test_stop_when(self):
    transitions = self.worker(stop_when=lambda progress: progress.tokens >= 9)
    self.check(
        self.to_the_end(transitions, self.restriction()), 9, reason='cancelled')
    self.assertFalse(generates_for(transitions.handler.sessions[0], 'a'))

  def test_the_restriction_is_bounded(self):
    transitions = self.worker(max_restriction_bytes=200)
    restriction = self.restriction()
    chunks = self.to_the_end(transitions, restriction)
    self.assertEqual(chunks[-1].finish_reason, 'length')
    size = sum(len(c.text) + 3 * len(c.token_ids) for c in chunks)
    self.assertGreater(size, 200)
    self.assertLess(size, 200 + 9 * 8)
    self.assertFalse(generates_for(transitions.handler.sessions[0], 'a'))

  def test_a_cancelled_request_has_a_last_chunk(self):
    for advanced in (0, 1, 3):
      transitions, restriction, chunks = self.worker(), self.restriction(), []
      for _ in range(advanced):
        self.now += 0.05
        chunk, restriction = self.advance(transitions, restriction)
        chunks += [chunk] if chunk else []
      made = sum(len(c.token_ids) for c in chunks)
      chunk, _ = self.advance(
          transitions, dataclasses.replace(restriction, is_cancelled=True))
      self.check(chunks + [chunk], made, reason='cancelled')
      self.assertEqual(len(transitions.requests), 0)

  def test_no_more_in_flight_than_allowed(self):
    transitions = self.worker(max_in_flight=2, tokens=1)
    restrictions = [self.restriction(str(i)) for i in range(3)]
    for restriction in restrictions:
      self.advance(transitions, restriction)
    self.assertEqual((len(transitions.requests), transitions.begun), (2, 2))
    self.now += 0.05
    chunk, _ = self.advance(transitions, restrictions[0])
    self.assertTrue(chunk.is_last)
    self.advance(transitions, restrictions[2])
    self.assertEqual((len(transitions.requests), transitions.begun), (2, 3))

  def test_a_request_at_another_worker_is_stopped(self):
    transitions = self.worker(tokens=10**6)
    self.advance(transitions, self.restriction('gone'))
    self.now += 500
    self.advance(transitions, self.restriction('here'))
    session = transitions.handler.sessions[0]
    self.assertTrue(generates_for(session, 'gone'))
    self.now += 200
    self.advance(transitions, self.restriction('new'))
    self.assertFalse(generates_for(session, 'gone'))
    self.assertTrue(generates_for(session, 'here'))

  def test_a_request_at_another_worker_is_not_in_flight(self):
    transitions = self.worker(tokens=10**6, max_in_flight=1)
    self.advance(transitions, self.restriction('gone'))
    for _ in range(2):
      self.now += 400
      self.advance(transitions, self.restriction('new'))
    self.assertTrue(generates_for(transitions.handler.sessions[0], 'new'))
    self.assertFalse(generates_for(transitions.handler.sessions[0], 'gone'))

  def test_the_end_of_a_slow_text_is_not_waited_for_long(self):
    # Three tokens, and no more: a chunk of 8 would take 30 s.
    transitions = self.worker(tokens=3, rate=0.3)
    transitions._limit = None
    begun, restriction = self.now, self.restriction()
    while not restriction.is_finished:
      chunk, restriction = self.advance(transitions, restriction)
      if not restriction.is_finished:
        self.now = max(
            self.now, transitions.defer(restriction, chunk is not None))
    self.assertLess(self.now - begun, 3 / 0.3 + 5.1)

  @settings(max_examples=50, deadline=None)
  @given(
      st.floats(0.2, 100.0),
      st.integers(1, 200),
      st.lists(st.floats(0.0, 0.5), min_size=1, max_size=9))
  def test_checkpoints_are_bounded(self, rate, tokens, lates):
    """At any speed, on a runner that polls at any time after the delay."""
    self.now = 1000.0
    transitions = self.worker(tokens, rate=rate)
    restriction, lates = self.restriction(), itertools.cycle(lates)
    chunks = []
    while not restriction.is_finished:
      chunk, restriction = self.advance(transitions, restriction)
      chunks += [chunk] if chunk else []
      text = transitions.requests.get(transitions.key(restriction))
      if text is not None:
        poll_at = transitions.defer(restriction, chunk is not None)
        # What is owed, longer chunks make up for.
        owed = max(text.owed, 0) / 8
        slow = (self.now - 1000.0) / 5
        self.assertLessEqual(
            text.checkpoints, restriction.tokens / 8 + 2 + owed + slow)
        self.now = max(poll_at, self.now) + next(lates)
    self.check(chunks, tokens)

  def test_a_resumed_request_has_a_seed_of_its_own(self):
    seeds = []

    class Seeds(ClockSession):
      def submit(self, request, resume_from=None):
        seeds.append((request.args.get('seed'), request.seed))
        super().submit(request, resume_from)

    restriction = self.restriction()
    transitions = self.worker(args={'seed': 7}, session_type=Seeds)
    for _ in range(3):
      self.now += 0.05
      _, restriction = self.advance(transitions, restriction)
    other = self.worker(args={'seed': 7}, session_type=Seeds)
    self.advance(other, restriction)
    self.assertEqual(seeds, [(7, None), (None, seed_at(7, restriction.index))])
    self.assertEqual(seed_at(7, 0), 7)
    derived = {seed_at(seed, index) for seed in (7, 8) for index in range(100)}
    self.assertEqual(len(derived), 200)


if __name__ == '__main__':
  unittest.main()
