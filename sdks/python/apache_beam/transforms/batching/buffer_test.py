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

from apache_beam.transforms.batching.buffer import BUCKETS
from apache_beam.transforms.batching.buffer import Buffer
from apache_beam.transforms.batching.policy.flushing import Span

_int64 = st.integers(-(2**63), 2**63 - 1)
_arrivals = st.lists(
    st.tuples(st.integers(0, 100), st.integers(0, 5)), min_size=1)


def _spread(count):
  return [10_000 + 37 * i % count for i in range(count)]


def _buffer(arrivals):
  """Holds (length, value) pairs."""
  buffer = Buffer()
  for at, (length, value) in enumerate(arrivals):
    buffer.add(length, at, 0, 1, [value])
  return buffer


class _Log:
  """What is stored of a buffer."""
  def __init__(self):
    self.records = []
    self.header = b''

  def store(self, buffer):
    anew, records = buffer.log()
    self.records = ([] if anew else self.records) + records
    self.header = buffer.header(1)

  def restored(self):
    # State keeps no order.
    return Buffer.restore(self.header, self.records[::-1])


def _restored(buffer):
  log = _Log()
  log.store(buffer)
  return log.restored()


class BufferTest(unittest.TestCase):
  @given(_arrivals)
  def test_lengths_ascend(self, arrivals):
    buffer = _buffer(arrivals)
    self.assertEqual(buffer.lengths, sorted(length for length, _ in arrivals))
    self.assertEqual(sum(buffer.held), len(arrivals))

  @given(
      st.lists(st.tuples(st.integers(0, 100), st.integers(0, 9)), min_size=1),
      st.booleans())
  def test_the_oldest_is_found_whenever_it_was_added(self, arrivals, restored):
    buffer = Buffer()
    for length, arrived in arrivals:
      buffer.add(length, arrived, 0, 1, [])
    if restored:
      buffer = _restored(buffer)
    first, taken = [], []
    while len(buffer):
      first.append(buffer.first_arrival())
      index = buffer.oldest()
      taken += buffer.take(Span(index, index + 1)).numbers
    self.assertEqual(first, sorted(arrived for _, arrived in arrivals))
    self.assertEqual(
        taken, sorted(range(len(arrivals)), key=lambda i: (arrivals[i][1], i)))

  def test_what_was_removed_is_forgotten_while_the_oldest_waits(self):
    buffer, log = _buffer([(100, 0)]), _Log()
    for at in range(1, 10_000):
      buffer.add(1, at, 0, 1, [0])
      log.store(buffer)
      buffer.take(Span(0, 1))
      self.assertLess(len(buffer._arrivals), 100)
      self.assertLess(sum(map(len, log.records)), 10_000)
    self.assertEqual(buffer.first_arrival(), 0)

  @given(_arrivals, st.data())
  def test_what_is_taken_was_there_and_the_rest_stays(self, arrivals, data):
    buffer = _buffer(arrivals)
    start = data.draw(st.integers(0, len(arrivals) - 1))
    end = data.draw(st.integers(start + 1, len(arrivals)))
    taken = buffer.take(Span(start, end))
    ordered = sorted(range(len(arrivals)), key=lambda i: (arrivals[i][0], i))
    self.assertEqual(taken.numbers, ordered[start:end])
    self.assertEqual([entry.length for entry in taken.entries],
                     [arrivals[i][0] for i in ordered[start:end]])
    self.assertEqual(len(buffer), len(arrivals) - (end - start))
    self.assertEqual(buffer.nbytes, len(buffer))
    self.assertEqual(sum(buffer.held), len(buffer))

  @given(_arrivals, st.integers(0, 20), st.integers(1, 8), st.data())
  def test_a_run_within_limits(self, arrivals, limit, most, data):
    buffer = _buffer(arrivals)
    index = data.draw(st.integers(0, len(arrivals) - 1))
    start = data.draw(st.integers(0, index))
    end = data.draw(st.integers(index + 1, len(arrivals)))
    run = buffer.within(
        Span(start, end), index, [limit], lambda count, longest: count > most)
    self.assertTrue(start <= run.start <= index < run.end <= end)
    values = [v for v, in buffer.values()[run.start:run.end]]
    if len(values) > 1:
      self.assertLessEqual(sum(values), limit)
      self.assertLessEqual(len(values), most)

  @given(
      st.lists(
          st.tuples(st.integers(0, 2**40), _int64, _int64, st.floats(0, 2**53)),
          min_size=1,
          max_size=200),
      _int64,
      _int64,
      st.data())
  def test_restores_what_it_stored_last(
      self, elements, hold, gathers_until, data):
    buffer, log = Buffer(), _Log()
    for length, arrived, timestamp, size in elements:
      buffer.add(length, arrived, timestamp, 7, [1, size])
      if data.draw(st.booleans()):
        start = data.draw(st.integers(0, len(buffer) - 1))
        end = data.draw(st.integers(start + 1, min(len(buffer), start + 3)))
        for _ in buffer.take(Span(start, end)).numbers:
          buffer.arrived.popleft()
      if data.draw(st.booleans()) and len(buffer):
        log.store(buffer)
    buffer.add(5, 5, 5, 7, [1, 5])
    buffer.hold, buffer.gathers_until = hold, gathers_until
    log.store(buffer)
    restored = log.restored()
    # Those that are buffered, in the order in which they came; and a heap, in
    # any of its orders.
    buffer.arrived.clear()
    buffer.arrived.extend(
        entry.length for _, entry in sorted(buffer._entries.items()))
    buffer._arrivals = buffer._in_order_of_arrival()
    self.assertEqual(vars(restored), vars(buffer))

  def test_buckets_follow_the_lengths(self):
    buffer = _buffer([(length, 0) for length in _spread(128)])
    self.assertEqual(sum(map(bool, buffer.held)), BUCKETS)

  def test_state_of_another_release(self):
    buffer = _buffer([(1, 0)])
    header = bytearray(buffer.header(1))
    header[0] += 1
    with self.assertRaisesRegex(ValueError, 'Drain the pipeline'):
      Buffer.restore(bytes(header), [])


if __name__ == '__main__':
  unittest.main()
