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

from apache_beam.transforms.batching.waiting import Leaving
from apache_beam.transforms.batching.waiting_room import CELLS
from apache_beam.transforms.batching.waiting_room import WaitingRoom

_int64 = st.integers(-(2**63), 2**63 - 1)
_arrivals = st.lists(
    st.tuples(st.integers(0, 100), st.integers(0, 5)), min_size=1)


def _spread(count):
  return [10_000 + 37 * i % count for i in range(count)]


def _room(arrivals):
  """Holds (length, value) pairs."""
  room = WaitingRoom()
  for at, (length, value) in enumerate(arrivals):
    room.add(length, at, 0, 1, [value])
  return room


class WaitingRoomTest(unittest.TestCase):
  @given(_arrivals)
  def test_lengths_ascend(self, arrivals):
    room = _room(arrivals)
    self.assertEqual(room.lengths, sorted(length for length, _ in arrivals))
    self.assertLessEqual(set(room.in_cells()), set(range(CELLS)))

  @given(
      st.lists(st.tuples(st.integers(0, 100), st.integers(0, 9)), min_size=1),
      st.booleans())
  def test_the_oldest_leaves_first_whenever_it_was_let_in(
      self, arrivals, decoded):
    room = WaitingRoom()
    for length, arrived in arrivals:
      room.add(length, arrived, 0, 1, [])
    if decoded:
      room = WaitingRoom.decode(room.encode())
    first, left = [], []
    while len(room):
      first.append(room.first_arrival())
      index = room.oldest()
      left += room.take(Leaving(index, index + 1)).numbers
    self.assertEqual(first, sorted(arrived for _, arrived in arrivals))
    self.assertEqual(
        left, sorted(range(len(arrivals)), key=lambda i: (arrivals[i][1], i)))

  def test_what_left_is_forgotten_while_the_oldest_waits(self):
    room = _room([(100, 0)])
    for at in range(1, 10_000):
      room.add(1, at, 0, 1, [0])
      room.take(Leaving(0, 1))
      self.assertLess(len(room._arrivals), 100)
    self.assertEqual(room.first_arrival(), 0)

  @given(_arrivals, st.data())
  def test_what_is_taken_was_there_and_the_rest_stays(self, arrivals, data):
    room = _room(arrivals)
    start = data.draw(st.integers(0, len(arrivals) - 1))
    end = data.draw(st.integers(start + 1, len(arrivals)))
    taken = room.take(Leaving(start, end))
    ordered = sorted(range(len(arrivals)), key=lambda i: (arrivals[i][0], i))
    self.assertEqual(taken.numbers, ordered[start:end])
    self.assertEqual([t.length for t in taken.tickets],
                     [arrivals[i][0] for i in ordered[start:end]])
    self.assertEqual(len(room), len(arrivals) - (end - start))
    self.assertEqual(room.nbytes, len(room))

  @given(_arrivals, st.integers(0, 20), st.integers(1, 8), st.data())
  def test_a_run_within_limits(self, arrivals, limit, most, data):
    room = _room(arrivals)
    index = data.draw(st.integers(0, len(arrivals) - 1))
    start = data.draw(st.integers(0, index))
    end = data.draw(st.integers(index + 1, len(arrivals)))
    run = room.within(
        Leaving(start, end),
        index, [limit], lambda count, longest: count > most)
    self.assertTrue(start <= run.start <= index < run.end <= end)
    values = [v for v, in room.values()[run.start:run.end]]
    if len(values) > 1:
      self.assertLessEqual(sum(values), limit)
      self.assertLessEqual(len(values), most)

  @given(
      st.lists(st.tuples(st.integers(0, 2**40), _int64, _int64)),
      _int64,
      _int64)
  def test_decodes_what_it_encodes(self, tickets, hold, gathers_until):
    room = WaitingRoom()
    for length, arrived, timestamp in tickets:
      room.add(length, arrived, timestamp, 7, [1, length])
    room.hold, room.gathers_until = hold, gathers_until
    decoded = WaitingRoom.decode(room.encode())
    # A heap, in any of its orders.
    room._arrivals.sort()
    self.assertEqual(vars(decoded), vars(room))

  def test_cells_follow_the_lengths(self):
    room = _room([(length, 0) for length in _spread(128)])
    self.assertEqual(len(room.in_cells()), CELLS)

  def test_state_of_a_later_release(self):
    encoded = bytearray(WaitingRoom().encode())
    encoded[0] += 1
    with self.assertRaisesRegex(ValueError, 'Drain the pipeline'):
      WaitingRoom.decode(bytes(encoded))


if __name__ == '__main__':
  unittest.main()
