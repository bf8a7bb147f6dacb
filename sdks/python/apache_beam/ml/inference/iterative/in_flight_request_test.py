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
import unittest

from hypothesis import given
from hypothesis import strategies as st

from apache_beam.ml.inference.iterative.engines.mailboxes_test import Engine
from apache_beam.ml.inference.iterative.in_flight_request import InFlightRequest
from apache_beam.ml.inference.iterative.in_flight_request import seed_at
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.ml.inference.iterative.result_stream import ResultStream
from apache_beam.ml.inference.iterative.session import Delta
from apache_beam.ml.inference.iterative.session import Request

_LOST = Delta(finish_reason='error', error='engine: gone', is_lost=True)


class _Scripted(Engine):
  """An engine that makes given deltas, one a poll."""
  def __init__(self, deltas, resumes='exact'):
    super().__init__()
    self.deltas = list(deltas)
    self.resumes = resumes
    self.submitted = []

  def submit(self, request, resume_from=None):
    self.submitted.append(request)

  def poll(self, request_id, timeout=0.0, ready=None):
    return self.deltas.pop(0) if self.deltas else None


class InFlightRequestTest(unittest.TestCase):
  def setUp(self):
    self.now = 0.0

  def request(self, session, losses=0, **options):
    stream = ResultStream(
        'a', 'prompt', None, IterativeOptions(**options), 0.0, lambda: self.now)
    request = InFlightRequest(stream, losses)
    self.submit(request, session)
    return request

  def submit(self, request, session):
    request.submit(
        session,
        Request('a', 'prompt', {'seed': 7}),
        request.stream.transcript,
        self.now)

  def retries(self, request, session):
    """The seconds before each retry, until it fails."""
    waits = []
    while True:
      delta = request.poll(self.now)
      if delta.finish_reason is not None:
        self.assertEqual(delta.error, 'engine: gone')
        return waits
      waits.append(request.retry_at - self.now)
      self.now = request.retry_at
      self.submit(request, session)
      self.assertIsNone(request.retry_at)

  def test_retries_are_bounded_and_ever_slower(self):
    session = _Scripted(9 * [_LOST])
    request = self.request(session)
    self.assertEqual(
        self.retries(request, session),
        [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0])
    self.assertEqual(request.losses, 8)

  def test_losses_before_count(self):
    session = _Scripted(3 * [_LOST])
    self.assertEqual(
        self.retries(self.request(session, losses=6), session), [10.0, 10.0])

  def test_progress_is_a_new_start(self):
    made = dataclasses.replace(_LOST, text='a', tokens=1)
    session = _Scripted(7 * [_LOST] + [made] + 8 * [_LOST])
    request = self.request(session)
    self.assertEqual(len(self.retries(request, session)), 15)

  def test_what_cannot_be_resumed_is_not_tried_again(self):
    made = dataclasses.replace(_LOST, text='a', tokens=1)
    self.assertEqual(
        self.request(_Scripted([made], 'none')).poll(0.0).finish_reason,
        'error')
    request = self.request(_Scripted([_LOST], 'none'))
    self.assertIsNone(request.poll(0.0).finish_reason)

  def test_a_session_that_does_not_know_it_is_lost(self):
    class Forgetful(_Scripted):
      def poll(self, request_id, timeout=0.0, ready=None):
        raise KeyError(request_id)

    request = self.request(Forgetful([]))
    self.assertIsNone(request.poll(0.0).finish_reason)
    self.assertRegex(request.stream.failure, 'does not know the request')

  def test_a_session_that_died_is_lost(self):
    session = _Scripted([])
    request = self.request(session)
    self.assertIsNone(request.poll(0.0))
    session.close()
    self.assertIsNone(request.poll(0.0).finish_reason)
    self.assertIsNotNone(request.retry_at)

  def test_a_time_limit_ends_what_was_lost(self):
    request = self.request(_Scripted([_LOST]), request_timeout_secs=5.0)
    self.now = 6.0
    self.assertRegex(request.poll(self.now).error, '^timeout: not done')
    self.assertIsNone(request.retry_at)
    self.assertRegex(request.overdue(), '^timeout: not done')

  def test_each_submission_has_an_id_of_its_own(self):
    session = _Scripted([_LOST])
    request = self.request(session)
    request.poll(0.0)
    self.submit(request, session)
    ids = [request.request_id for request in session.submitted]
    self.assertEqual(len(set(ids)), 2)
    self.assertTrue(all(one.startswith('a-') for one in ids))

  def test_a_resumed_request_has_a_seed_of_its_own(self):
    session = _Scripted([])
    request = self.request(session)
    request.stream.take(Delta('a', (1, ), tokens=1))
    self.submit(request, session)
    self.assertEqual([(request.args.get('seed'), request.seed)
                      for request in session.submitted],
                     [(7, None), (None, seed_at(7, 1))])

  @given(st.integers(0, 2**31 - 1), st.integers(0, 1000))
  def test_seeds_are_those_of_engines(self, seed, index):
    self.assertIn(seed_at(seed, index), range(2**31))
    self.assertEqual(seed_at(seed, 0), seed)
    self.assertNotEqual(seed_at(seed, index), seed_at(seed, index + 1))


if __name__ == '__main__':
  unittest.main()
