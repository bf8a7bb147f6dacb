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

"""Tests of how deltas become chunks."""

import unittest

from hypothesis import given
from hypothesis import strategies as st

from apache_beam.ml.inference.iterative.chunk import Timings
from apache_beam.ml.inference.iterative.chunk import Usage
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.ml.inference.iterative.result_stream import ResultStream
from apache_beam.ml.inference.iterative.session import Delta


class Clock:
  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


def delta(text, made=0.0, **kwargs):
  return Delta(text, tokens=len(text), started=made, made=made, **kwargs)


class ResultStreamTest(unittest.TestCase):
  def setUp(self):
    self.clock = Clock()

  def stream(self, **options):
    stream = ResultStream(
        'id',
        'the input',
        'model',
        IterativeOptions(**options),
        self.clock.now,
        self.clock)
    stream.was_submitted()
    return stream

  @given(
      st.lists(st.text('ab', min_size=1), max_size=6),
      st.sampled_from(['stop', 'length', 'error']))
  def test_chunks_are_gapless_and_one_is_the_last(self, texts, reason):
    stream = self.stream()
    chunks = [stream.take(delta(text)) for text in texts]
    chunks.append(stream.take(delta('', finish_reason=reason, error='k: m')))
    self.assertEqual([c.index for c in chunks], list(range(len(chunks))))
    self.assertEqual(''.join(c.text for c in chunks), ''.join(texts))
    self.assertEqual([c.is_last for c in chunks], [False] * len(texts) + [True])
    self.assertEqual(chunks[-1].finish_reason, reason)
    self.assertEqual(chunks[-1].usage.completion_tokens, len(''.join(texts)))

  def test_only_the_last_chunk_has_the_input(self):
    stream = self.stream()
    first = stream.take(delta('a'))
    self.assertEqual((first.example, first.model_id), (None, None))
    end = stream.take(delta('b', finish_reason='stop', prompt_tokens=7))
    self.assertEqual((end.example, end.model_id), ('the input', 'model'))
    self.assertEqual(end.usage, Usage(7, 2))

  def test_the_first_token_is_due_at_once_and_later_ones_by_number_or_time(
      self):
    stream = self.stream(chunk_tokens=3, chunk_secs=2)
    self.assertTrue(stream.is_ready(delta('a', self.clock.now)))
    stream.take(delta('a'))
    self.assertFalse(stream.is_ready(delta('bb', self.clock.now)))
    self.assertTrue(stream.is_ready(delta('bbb', self.clock.now)))
    self.assertFalse(stream.is_ready(delta('b', self.clock.now - 1.9)))
    self.assertTrue(stream.is_ready(delta('b', self.clock.now - 2)))

  def test_without_a_time_durable_chunks_have_their_tokens(self):
    for mode, is_due in (('in_bundle', True), ('durable', False)):
      stream = self.stream(mode=mode, chunk_tokens=3)
      stream.take(delta('a'))
      self.assertFalse(stream.is_ready(delta('bb', self.clock.now - 0.9)))
      self.assertEqual(
          stream.is_ready(delta('bb', self.clock.now - 60)), is_due)
      # Longer ones, to save a checkpoint, at most twice as long.
      self.assertEqual(
          stream.is_ready(delta('bbbbb', self.clock.now - 60), 30), is_due)
      six = delta('bbbbbb', self.clock.now - 0.9)
      self.assertFalse(stream.is_ready(six, 30))
      self.clock.now += 0.1
      self.assertTrue(stream.is_ready(six, 30))

  def test_tokens_that_wait_for_others_are_news(self):
    stream = self.stream(mode='durable', stall_timeout_secs=10)
    stream.was_submitted()
    stream.take(delta('a'))
    self.clock.now += 9
    self.assertFalse(stream.is_ready(delta('bb', self.clock.now)))
    self.clock.now += 9
    self.assertIsNone(stream.overdue())
    self.clock.now += 2
    self.assertIsNotNone(stream.overdue())

  def test_times_are_those_of_the_model(self):
    stream = ResultStream(
        'id', None, None, IterativeOptions(), self.clock.now, self.clock)
    self.clock.now = 101
    stream.was_submitted()
    stream.take(Delta('ab', tokens=2, started=101.5, made=102))
    self.clock.now = 150
    end = stream.take(
        Delta('c', tokens=1, started=104, made=105, finish_reason='stop'))
    self.assertEqual(end.timings, Timings(1, 0.5, 4))

  def test_stops_where_the_predicate_says_so(self):
    seen = []

    def stop_when(progress):
      seen.append((progress.text, progress.tokens, progress.example))
      return 'bad' in progress.text

    stream = self.stream(stop_when=stop_when)
    self.assertFalse(stream.take(delta('ok b')).is_last)
    chunk = stream.take(delta('ad'))
    self.assertEqual((chunk.text, chunk.finish_reason), ('ad', 'cancelled'))
    self.assertEqual(
        seen, [('ok b', 4, 'the input'), ('ok bad', 6, 'the input')])

  def test_a_predicate_that_raises_fails_its_input(self):
    stream = self.stream(stop_when=lambda progress: 1 / 0)
    chunk = stream.take(delta('a'))
    self.assertEqual(chunk.finish_reason, 'error')
    self.assertRegex(chunk.error, '^stop_when: it raised ZeroDivisionError')
    self.assertEqual(chunk.error_kind, 'stop_when')

  def test_is_given_up_when_it_takes_too_long(self):
    stream = self.stream(request_timeout_secs=10, stall_timeout_secs=4)
    self.clock.now += 3.9
    self.assertIsNone(stream.overdue())
    stream.take(delta('a'))
    self.clock.now += 3.9
    self.assertIsNone(stream.overdue())
    self.clock.now += 0.2
    self.assertEqual(stream.overdue(), 'timeout: nothing was made for 4 s')
    self.clock.now += 2.1
    self.assertEqual(
        stream.overdue(), 'timeout: not done 10 s after it was submitted')
    chunk = stream.fail(stream.overdue())
    self.assertEqual((chunk.index, chunk.error_kind), (1, 'timeout'))

  def test_the_last_failure_is_named(self):
    stream = self.stream(stall_timeout_secs=4)
    self.assertIsNone(stream.overdue('server: busy'))
    self.clock.now += 4.1
    self.assertEqual(
        stream.overdue('server: busy'),
        'timeout: nothing was made for 4 s. The last attempt failed: server: '
        'busy')
    stream.failure = 'lost: gone'
    self.assertRegex(stream.overdue(), 'The last attempt failed: lost: gone$')
    stream.take(delta('a'))
    self.clock.now += 4.1
    self.assertEqual(stream.overdue(), 'timeout: nothing was made for 4 s')

  def test_there_need_not_be_a_limit(self):
    stream = self.stream(stall_timeout_secs=None)
    self.clock.now += 1e9
    self.assertIsNone(stream.overdue())


class IterativeOptionsTest(unittest.TestCase):
  def test_bad_values_are_named(self):
    for error, name, value in (
        (ValueError, 'mode', 'durably'),
        (TypeError, 'chunk_tokens', 1.5),
        (TypeError, 'chunk_tokens', True),
        (ValueError, 'chunk_tokens', 0),
        (ValueError, 'max_in_flight', -1),
        (TypeError, 'chunk_secs', '1'),
        (ValueError, 'chunk_secs', 0),
        (ValueError, 'chunk_secs', float('nan')),
        (TypeError, 'request_timeout_secs', '10'),
        (ValueError, 'stall_timeout_secs', -3),
        (ValueError, 'stall_timeout_secs', 0.5),
        (TypeError, 'stop_when', 'bad'),
        (TypeError, 'request_id_fn', 3)):
      with self.subTest(name=name, value=value):
        with self.assertRaisesRegex(error, f'IterativeOptions.{name}='):
          IterativeOptions(**{name: value})


if __name__ == '__main__':
  unittest.main()
