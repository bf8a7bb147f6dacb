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
from unittest import mock

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from apache_beam.ml.inference.iterative import registry
from apache_beam.ml.inference.iterative.durable.requests import DurableRequests
from apache_beam.ml.inference.iterative.durable.restriction import TranscriptRestrictionCoder
from apache_beam.ml.inference.iterative.durable.restriction import TranscriptRestrictionTracker
from apache_beam.ml.inference.iterative.durable.restriction import new_restriction
from apache_beam.ml.inference.iterative.durable.transitions import Transitions
from apache_beam.ml.inference.iterative.inputs import Inputs
from apache_beam.ml.inference.iterative.metrics import IterativeMetrics
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.ml.inference.iterative.session import Request
from apache_beam.testing.inference.clock_session import ClockModelHandler
from apache_beam.testing.inference.clock_session import ClockSession
from apache_beam.testing.inference.clock_session import clock_text
from apache_beam.testing.inference.clock_session import clock_token_ids

_CODER = TranscriptRestrictionCoder()
_KEYS = itertools.count()


class _Handler(ClockModelHandler):
  """Keeps the sessions that it opens; they have the clock of the test."""
  def __init__(self, tokens, clock, session_type=ClockSession, rate=20):
    super().__init__(tokens, rate)
    self.sessions = []
    self._open = lambda: session_type(tokens, rate, clock)

  def open_session(self):
    self.sessions.append(self._open())
    return self.sessions[-1]

  def prompt_of(self, example):
    if example == 'bad':
      raise ValueError('it is bad')
    if example == 'worse':
      raise AttributeError('it has no role')
    return example


class _NoResume(ClockSession):
  resumes = 'none'


def generates_for(session, request_id):
  return any(key.startswith(f'{request_id}-') for key in session._running)


class _Counts:
  """Stands for Beam's metrics, outside of a pipeline."""
  def __init__(self):
    self.names = []
    self.metrics = IterativeMetrics('test')
    self.metrics.count = lambda name, n=1: self.names.extend(n * [name])
    self.metrics._update = lambda name, value: None


class TransitionsTestCase(unittest.TestCase):
  """Workers that a runner calls for texts."""
  def setUp(self):
    self.now = 1000.0
    self.counts = _Counts()
    self.leases = []

  def tearDown(self):
    for lease in self.leases:
      lease.release()

  def clock(self):
    return self.now

  def worker(
      self,
      tokens=64,
      args=None,
      session_type=ClockSession,
      rate=20,
      **options):
    """A process of its own: its sessions, and what it knows of its texts."""
    handler = _Handler(tokens, self.clock, session_type, rate)
    texts = DurableRequests(self.clock)
    lease = registry.acquire(f'test {next(_KEYS)}', handler.open_session)
    self.leases.append(lease)
    transitions = Transitions(
        Inputs(handler, False, args or {}),
        IterativeOptions(mode='durable', **options),
        lease,
        texts,
        self.counts.metrics,
        self.clock, lambda: self.now + 1e9)
    transitions.handler, transitions.requests, transitions.lease = handler, texts, lease
    return transitions

  def restriction(self, request_id='a'):
    return new_restriction(request_id, wall_clock=lambda: self.now + 1e9)

  def advance(self, transitions, restriction, prompt='prompt', fail=False):
    """A call of a runner: the chunk, if any, and the committed restriction."""
    tracker = TranscriptRestrictionTracker(
        _CODER.decode(_CODER.encode(restriction)))
    transition = transitions.next(tracker.current_restriction(), prompt)
    if transition is None:
      return None, restriction
    self.assertTrue(tracker.try_claim(transition.after))
    transitions.was_claimed(transition)
    if fail:
      return None, restriction
    return transition.chunk, _CODER.decode(_CODER.encode(transition.after))

  def to_the_end(self, transitions, restriction, prompt='prompt', chunks=()):
    chunks = list(chunks)
    while not restriction.is_finished:
      self.now += 0.05
      chunk, restriction = self.advance(transitions, restriction, prompt)
      if chunk is not None:
        chunks.append(chunk)
    return chunks

  def check(self, chunks, tokens=64, prompt='prompt', reason='length'):
    ids = clock_token_ids(prompt, 0, tokens)
    self.assertEqual([c.index for c in chunks], list(range(len(chunks))))
    self.assertEqual(sum((c.token_ids for c in chunks), ()), ids)
    self.assertEqual(''.join(c.text for c in chunks), clock_text(ids))
    self.assertEqual([c.finish_reason for c in chunks],
                     [None] * (len(chunks) - 1) + [reason])


class TransitionsTest(TransitionsTestCase):
  def test_first_chunk_at_once_then_by_tokens(self):
    transitions = self.worker()
    chunks = self.to_the_end(transitions, self.restriction())
    self.check(chunks)
    self.assertEqual([len(c.token_ids) for c in chunks], [1] + 7 * [8] + [7])
    last = chunks[-1]
    self.assertEqual(last.usage.completion_tokens, 64)
    self.assertAlmostEqual(last.timings.first, 0.05)
    self.assertAlmostEqual(last.timings.total, 3.2)
    self.assertEqual(last.example, 'prompt')
    self.assertEqual(len(transitions.requests), 0)

  def test_submits_without_waiting(self):
    transitions = self.worker()
    chunk, _ = self.advance(transitions, self.restriction())
    self.assertIsNone(chunk)
    self.assertEqual((transitions.begun, len(transitions.requests)), (1, 1))

  @settings(max_examples=50, deadline=None)
  @given(
      st.lists(
          st.sampled_from(['go', 'go', 'go', 'move', 'fail', 'die', 'sleep']),
          max_size=60),
      st.integers(1, 30),
      st.integers(1, 8))
  def test_nothing_is_lost_or_duplicated(self, events, tokens, chunk_tokens):
    """Whatever happens to bundles, workers and engines."""
    self.now = 1000.0
    workers = [self.worker(tokens, chunk_tokens=chunk_tokens) for _ in range(2)]
    restriction, chunks, current = self.restriction(), [], 0
    for event in events:
      if restriction.is_finished:
        break
      if event == 'move':
        current = 1 - current
      elif event == 'die':
        workers[current].lease.session().close()
      elif event == 'sleep':
        self.now += 1.0
      else:
        self.now += 0.05
        chunk, restriction = self.advance(
            workers[current], restriction, fail=event == 'fail')
        if chunk is not None:
          chunks.append(chunk)
    if not restriction.is_finished:
      chunks = self.to_the_end(workers[current], restriction, chunks=chunks)
    self.check(chunks, tokens)

  def test_resumes_at_each_chunk_on_another_worker(self):
    restriction, first = self.restriction(), []
    for index in range(20):
      rest = self.to_the_end(
          self.worker(tokens=20, chunk_tokens=1), restriction)
      self.check(first + rest, 20)
      transitions = self.worker(tokens=20, chunk_tokens=1)
      while len(first) == index:
        chunk, restriction = self.advance(transitions, restriction)
        first += [chunk] if chunk else []
        self.now += 0.05
    self.check(first, 20)
    self.assertTrue(restriction.is_finished)
    self.assertEqual(self.counts.names.count('resumed'), 2 * 19)

  def test_a_checkpoint_of_the_runner_loses_nothing(self):
    transitions, restriction = self.worker(tokens=3), self.restriction()
    self.advance(transitions, restriction)
    self.now += 0.05
    # The runner took the restriction while the transition was made.
    first = transitions.next(restriction, 'prompt')
    self.assertIsNotNone(first.chunk)
    chunks = self.to_the_end(transitions, restriction)
    self.check(chunks, 3)
    self.assertEqual(chunks[0], first.chunk)
    self.assertNotIn('resumed', self.counts.names)

  def test_another_worker_took_it_over_meanwhile(self):
    mine, other = self.worker(tokens=9), self.worker(tokens=9)
    chunks, restriction = [], self.restriction()
    for transitions in 8 * [mine] + 12 * [other]:
      self.now += 0.05
      chunk, restriction = self.advance(transitions, restriction)
      chunks += [chunk] if chunk else []
      if restriction.is_finished:
        break
      if len(chunks) == 2:
        break
    self.assertEqual(len(mine.requests), 1)
    self.check(self.to_the_end(mine, restriction, chunks=chunks), 9)

  def test_a_lost_engine_is_tried_again_later(self):
    transitions, restriction = self.worker(), self.restriction()
    self.advance(transitions, restriction)
    self.now += 0.12
    transitions.handler.sessions[0].close()
    chunk, restriction = self.advance(transitions, restriction)
    # What was made before is not thrown away.
    self.assertEqual(len(chunk.token_ids), 2)
    self.assertEqual(restriction.losses, 1)
    self.assertEqual(
        self.advance(transitions, restriction), (None, restriction))
    self.assertEqual(len(transitions.handler.sessions), 1)
    self.check(self.to_the_end(transitions, restriction, chunks=[chunk]))
    self.assertEqual(len(transitions.handler.sessions), 2)
    self.assertEqual(self.counts.names.count('retries'), 1)
    self.assertEqual(self.counts.names.count('resumed'), 1)

  def test_gives_up_an_engine_that_dies_again_and_again(self):
    class Dead(ClockSession):
      def __init__(self, *args):
        super().__init__(*args)
        self.close()

    transitions = self.worker(session_type=Dead)
    begun = self.now
    chunk, = self.to_the_end(transitions, self.restriction())
    self.assertEqual(chunk.error_kind, 'engine')
    self.assertEqual(self.counts.names.count('retries'), 8)
    self.assertGreater(self.now - begun, 35)

  def test_an_engine_that_cannot_resume(self):
    transitions = self.worker(session_type=_NoResume)
    restriction = self.restriction()
    self.advance(transitions, restriction)
    transitions.handler.sessions[0].close()
    chunks = []
    for _ in range(10):
      self.now += 0.05
      chunk, restriction = self.advance(transitions, restriction)
      chunks += [chunk] if chunk else []
    # Nothing was emitted before, so that it can start again; then not.
    self.assertEqual([c.error for c in chunks], [None])
    transitions.handler.sessions[1].close()
    chunks = self.to_the_end(transitions, restriction, chunks=chunks)
    self.assertEqual(chunks[-1].error_kind, 'engine')

  def test_an_engine_that_does_not_open_holds_nothing(self):
    transitions, restriction = self.worker(max_in_flight=1), self.restriction()
    open_session = transitions.handler._open
    transitions.handler._open = mock.Mock(side_effect=RuntimeError('restarts'))
    for _ in range(2):
      with self.assertRaisesRegex(RuntimeError, 'restarts'):
        self.advance(transitions, restriction)
    self.assertEqual(len(transitions.requests), 0)
    transitions.handler._open = open_session
    chunks = self.to_the_end(transitions, restriction)
    self.assertEqual(chunks[-1].finish_reason, 'length')

  def test_inputs_that_fail(self):
    transitions = self.worker()
    chunk, after = self.advance(transitions, self.restriction(), 'bad')
    self.assertEqual(chunk.error, 'invalid: it is bad')
    self.assertTrue(after.is_finished)
    chunk, _ = self.advance(transitions, self.restriction(), 'worse')
    self.assertRegex(chunk.error, "^invalid: 'worse' .*no role")
    unnamed = dataclasses.replace(self.restriction(), error='invalid: no name')
    chunk, after = self.advance(transitions, unnamed)
    self.assertEqual((chunk.error, chunk.index), ('invalid: no name', 0))
    self.assertEqual(len(transitions.requests), 0)

  def test_a_duplicate_fails_alone(self):
    transitions, restriction = self.worker(), self.restriction()
    self.advance(transitions, restriction)
    duplicate = self.restriction()
    chunk, after = self.advance(transitions, duplicate)
    self.assertEqual((chunk.error_kind, chunk.index), ('duplicate', 0))
    # An id of its own, and the same when its bundle is tried again.
    self.assertRegex(chunk.request_id, '^a-duplicate-[0-9a-f]{16}$')
    again, _ = self.advance(transitions, duplicate)
    self.assertEqual(again.request_id, chunk.request_id)
    self.assertTrue(after.is_finished)
    self.check(self.to_the_end(transitions, restriction))

  def test_a_duplicate_that_is_cancelled_or_resumed_fails_alone(self):
    for before in (dict(is_cancelled=True), dict(index=3, tokens=17)):
      transitions, restriction = self.worker(), self.restriction()
      self.advance(transitions, restriction)
      duplicate = dataclasses.replace(self.restriction(), **before)
      chunk, _ = self.advance(transitions, duplicate)
      self.assertEqual((chunk.error_kind, chunk.index), ('duplicate', 0))
      self.assertNotEqual(chunk.request_id, 'a')
      self.check(self.to_the_end(transitions, restriction))

  def test_an_id_is_free_after_its_end(self):
    transitions = self.worker(tokens=3)
    for _ in range(2):
      self.check(self.to_the_end(transitions, self.restriction()), 3)

  def test_a_request_begun_elsewhere_is_no_duplicate(self):
    # Both were let in, by two workers; failing here would cost a text.
    other, transitions = self.worker(), self.worker()
    restriction = self.restriction()
    self.advance(other, restriction)
    self.now += 0.05
    chunk, restriction = self.advance(other, restriction)
    self.advance(transitions, self.restriction())
    self.check(self.to_the_end(transitions, restriction, chunks=[chunk]))

  def test_the_same_id_in_two_windows_or_transforms_is_two(self):
    one = self.worker()
    other = Transitions(
        one._inputs,
        one._options,
        one.lease,
        one.requests,
        self.counts.metrics,
        self.clock, lambda: self.now + 1e9,
        owner='another')
    for transitions, windows in ((one, ('w1', )), (one, ('w2', )), (other, ('w1', ))):
      self.assertIsNone(transitions.next(self.restriction(), 'prompt', windows))
    self.assertEqual(len(one.requests), 3)
    for windows in (('w1', ), ('w0', 'w2')):
      transition = one.next(self.restriction(), 'prompt', windows)
      self.assertEqual(transition.chunk.error_kind, 'duplicate')
      self.assertEqual(len(one.requests), 3)

  def test_windows_that_a_runner_splits_are_requests_of_their_own(self):
    """Copies of a restriction, as Prism makes them between stages."""
    for parted_at in range(4):
      transitions, copies = self.worker(tokens=20), {('w1', 'w2'): self.restriction()}
      chunks = {('w1', ): [], ('w2', ): []}
      submissions = 0
      for turn in range(100):
        if turn == parted_at:
          copies = {(w, ): copies['w1', 'w2']
                    for w in ('w1', 'w2')}
        for windows, restriction in copies.items():
          if restriction.is_finished:
            continue
          transition = transitions.next(restriction, 'prompt', windows)
          if transition is None:
            continue
          transitions.was_claimed(transition)
          copies[windows] = transition.after
          for window in windows:
            chunks[
                window,
            ] += [transition.chunk] if transition.chunk else []
        submissions = max(submissions, transitions.begun)
        self.now += 0.05
      for made in chunks.values():
        self.check(made, 20)
      self.assertLessEqual(submissions, 3)
      self.assertEqual(len(transitions.requests), 0)

  def test_a_submission_that_another_transform_made_is_not_its(self):
    transitions = self.worker()
    session = transitions.lease.session()
    session.submit(Request('a', 'prompt'))
    self.check(self.to_the_end(transitions, self.restriction()))
    self.assertTrue(session.knows('a'))


if __name__ == '__main__':
  unittest.main()
