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

import time
import unittest

from apache_beam.ml.inference.iterative.session import Delta
from apache_beam.ml.inference.iterative.session import DuplicateRequest
from apache_beam.ml.inference.iterative.session import Request
from apache_beam.ml.inference.iterative.session import Transcript
from apache_beam.testing.inference.clock_session import ClockModelHandler
from apache_beam.testing.inference.clock_session import ClockSession
from apache_beam.testing.inference.clock_session import clock_text
from apache_beam.testing.inference.clock_session import clock_token_ids


class ClockSessionTest(unittest.TestCase):
  def setUp(self):
    self.now = 100.0
    self.session = ClockSession(tokens=4, rate=10, clock=lambda: self.now)

  def test_tokens_come_by_the_clock(self):
    self.session.submit(Request('a', 'prompt'))
    self.assertIsNone(self.session.poll('a'))
    self.now += 0.1
    first = self.session.poll('a')
    self.assertEqual(first.tokens, 1)
    self.now += 0.2
    self.assertIsNone(self.session.poll('a', ready=lambda _: False))
    self.now += 5
    rest = self.session.poll('a')
    self.assertEqual((rest.tokens, rest.finish_reason), (3, 'length'))
    self.assertAlmostEqual(rest.started, 100.2)
    self.assertAlmostEqual(rest.made, 100.4)
    self.assertEqual((first + rest).token_ids, clock_token_ids('prompt', 0, 4))
    self.assertEqual((first + rest).text, clock_text((first + rest).token_ids))
    self.assertFalse(self.session.knows('a'))

  def test_a_resumed_text_goes_on(self):
    ids = clock_token_ids('prompt', 0, 3)
    self.session.submit(
        Request('a', 'prompt'), Transcript(clock_text(ids), ids, 3))
    self.now += 0.1
    delta = self.session.poll('a')
    self.assertEqual(ids + delta.token_ids, clock_token_ids('prompt', 0, 4))
    self.assertEqual(delta.finish_reason, 'length')

  def test_a_closed_session_loses_what_runs(self):
    self.session.submit(Request('a', 'prompt'))
    self.now += 0.2
    self.session.close()
    self.now += 10
    delta = self.session.poll('a')
    self.assertEqual((delta.tokens, delta.is_lost), (2, True))
    self.assertFalse(self.session.is_alive)
    self.session.submit(Request('b', 'prompt'))
    self.assertTrue(self.session.poll('b').is_lost)

  def test_refuses_an_id_that_is_in_flight(self):
    self.session.submit(Request('a', 'prompt'))
    with self.assertRaisesRegex(DuplicateRequest, "'a'"):
      self.session.submit(Request('a', 'prompt'))
    self.session.cancel('a')
    self.session.submit(Request('a', 'prompt'))

  def test_wait_returns_with_the_next_token(self):
    session = ClockSession(tokens=3, rate=20)
    self.assertFalse(session.wait(0.01))
    session.submit(Request('a', 'prompt'))
    for _ in range(3):
      self.assertTrue(session.wait(30))
    self.assertEqual(session.poll('a').finish_reason, 'length')
    self.assertFalse(session.wait(0.01))

  def test_equals_one_shot(self):
    handler = ClockModelHandler(tokens=5, rate=1000)
    session = handler.open_session()
    session.submit(Request('a', 'prompt'))
    whole, deadline = Delta(), time.monotonic() + 30
    while whole.finish_reason is None and time.monotonic() < deadline:
      whole += session.poll('a', timeout=1) or Delta()
    one_shot, = handler.run_inference(['prompt'], handler.load_model())
    self.assertEqual(one_shot.inference.text, whole.text)
    self.assertEqual(one_shot.inference.token_ids, whole.token_ids)


if __name__ == '__main__':
  unittest.main()
