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

"""Tests of what all sessions share."""

import threading
import unittest

from hypothesis import given
from hypothesis import strategies as st

from apache_beam.ml.inference.iterative.engines.mailboxes import BufferedSession
from apache_beam.ml.inference.iterative.session import Delta
from apache_beam.ml.inference.iterative.session import DuplicateRequest
from apache_beam.ml.inference.iterative.session import Request
from apache_beam.ml.inference.iterative.session import Transcript


class Engine(BufferedSession):
  """A session whose engine is the test."""
  def __init__(self, resumes='none', **kwargs):
    super().__init__(**kwargs)
    self.resumes = resumes
    self.started = []
    self.stopped = []

  def _start(self, request, resume_from):
    if request.prompt == 'bad':
      raise ValueError('it is bad')
    if request.prompt == 'broken':
      raise KeyError('no such model')
    self.started.append((request.request_id, resume_from))

  def _stop(self, request_id):
    self.stopped.append(request_id)

  def make(self, request_id, text, **kwargs):
    return self._push(request_id, Delta(text, tokens=len(text), **kwargs))


def last(text=''):
  return {'text': text, 'finish_reason': 'stop'}


# What is made for two requests and asked for, in any order.
steps = st.lists(
    st.tuples(st.sampled_from('ab'), st.sampled_from(['make', 'poll'])))


class BufferedSessionTest(unittest.TestCase):
  @given(steps)
  def test_everything_made_is_taken_once_in_order(self, steps):
    session, made, taken = Engine(), {'a': '', 'b': ''}, {'a': '', 'b': ''}
    for key in 'ab':
      session.submit(Request(key, 'p'))
    for number, (key, action) in enumerate(steps):
      if action == 'make':
        self.assertTrue(session.make(key, f'{number} '))
        made[key] += f'{number} '
      else:
        delta = session.poll(key)
        self.assertEqual(delta is None, made[key] == taken[key])
        taken[key] += delta.text if delta else ''
    for key in 'ab':
      session.make(key, **last('.'))
      delta = session.poll(key)
      self.assertEqual(taken[key] + delta.text, made[key] + '.')
      self.assertEqual(delta.finish_reason, 'stop')
      self.assertFalse(session.knows(key))

  def test_a_slow_consumer_gets_one_delta(self):
    times = iter(range(100))
    session = Engine(clock=lambda: next(times))
    session.submit(Request('a', 'p'))
    for word in ('one ', 'two ', 'three'):
      session.make(
          'a', word, token_ids=(len(word), ))
    delta = session.poll('a')
    self.assertEqual(delta.text, 'one two three')
    self.assertEqual(delta.token_ids, (4, 4, 5))
    self.assertEqual(delta.tokens, 13)
    self.assertEqual((delta.started, delta.made), (0, 2))
    self.assertIsNone(session.poll('a'))

  def test_what_is_not_ready_is_added_to(self):
    session = Engine()
    session.submit(Request('a', 'p'))
    ready = lambda delta: delta.tokens >= 3
    session.make('a', 'xx')
    self.assertIsNone(session.poll('a', ready=ready))
    session.make('a', 'yy')
    self.assertEqual(session.poll('a', ready=ready).text, 'xxyy')
    session.make('a', **last('z'))
    self.assertEqual(session.poll('a', ready=ready).text, 'z')

  def test_nothing_follows_a_finish_reason(self):
    session = Engine()
    session.submit(Request('a', 'p'))
    session.make('a', **last('end'))
    self.assertFalse(session.make('a', 'more'))
    self.assertEqual(session.poll('a').text, 'end')
    self.assertFalse(session.make('a', 'more'))
    with self.assertRaises(KeyError):
      session.poll('a')

  def test_an_id_is_free_again_after_its_end(self):
    session = Engine()
    session.submit(Request('a', 'p'))
    with self.assertRaisesRegex(DuplicateRequest, "'a' is in flight already"):
      session.submit(Request('a', 'p'))
    session.make('a', **last())
    session.poll('a')
    session.submit(Request('a', 'p'))
    self.assertTrue(session.knows('a'))

  def test_what_the_engine_does_not_take_ends_in_an_error(self):
    session = Engine()
    session.submit(Request('a', 'bad'))
    delta = session.poll('a')
    self.assertEqual(delta.error, 'invalid: it is bad')
    self.assertFalse(delta.is_lost)
    session.submit(Request('b', 'broken'))
    self.assertRegex(session.poll('b').error, "^engine: .*'no such model'")

  def test_cancelling_stops_the_engine_once(self):
    session = Engine()
    session.submit(Request('a', 'p'))
    session.make('a', 'x')
    for _ in range(2):
      session.cancel('a')
    self.assertEqual(session.stopped, ['a'])
    self.assertFalse(session.make('a', 'y'))
    self.assertFalse(session.knows('a'))
    session.submit(Request('b', 'p'))
    session.make('b', **last())
    session.cancel('b')
    self.assertEqual(session.stopped, ['a'])

  def test_closing_loses_what_is_in_flight_but_nothing_that_was_made(self):
    session = Engine()
    for key in 'ab':
      session.submit(Request(key, 'p'))
      session.make(key, 'text')
    session.make('b', **last())
    session.close()
    self.assertFalse(session.is_alive)
    lost, done = session.poll('a'), session.poll('b')
    self.assertEqual((lost.text, lost.finish_reason), ('text', 'error'))
    self.assertTrue(lost.is_lost)
    self.assertEqual((done.text, done.finish_reason), ('text', 'stop'))
    session.submit(Request('c', 'p'))
    self.assertTrue(session.poll('c').is_lost)

  def test_only_engines_that_can_go_on_from_a_transcript_do(self):
    done = Transcript('so far', (1, 2), 2)
    session = Engine()
    session.submit(Request('a', 'p'), done)
    self.assertRegex(session.poll('a').error, '^lost: .* after 2 tokens')
    self.assertEqual(session.started, [])
    session = Engine(resumes='exact')
    session.submit(Request('a', 'p'), done)
    self.assertEqual(session.started, [('a', done)])

  def test_waits_for_news_of_any_request(self):
    session = Engine()
    self.assertFalse(session.wait(0))
    for key in 'ab':
      session.submit(Request(key, 'p'))
    thread = threading.Timer(0.05, session.make, ('b', 'x'))
    thread.start()
    self.assertTrue(session.wait(30))
    self.assertFalse(session.wait(0))
    thread.join()
    self.assertEqual(session.poll('b', timeout=30).text, 'x')

  def test_every_thread_is_told_of_news(self):
    session = Engine()
    session.submit(Request('a', 'p'))
    session.make('a', 'x')
    told = []
    threads = [
        threading.Thread(target=lambda: told.append(session.wait(0)))
        for _ in range(2)
    ]
    for thread in threads:
      thread.start()
      thread.join()
    self.assertEqual(told, [True, True])

  def test_waits_for_one_request(self):
    session = Engine()
    session.submit(Request('a', 'p'))
    thread = threading.Timer(0.05, session.make, ('a', 'x'))
    thread.start()
    self.assertEqual(session.poll('a', timeout=30).text, 'x')
    thread.join()


if __name__ == '__main__':
  unittest.main()
