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

"""What waits under one key: lengths and times. Elements are elsewhere, in cells.

A batch takes neighbours by length, so elements of similar length are kept in
one cell and a batch reads one or two cells instead of all that waits.
"""

import heapq
import struct
from array import array
from bisect import bisect_left
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence
from typing import NamedTuple

from apache_beam.transforms.batching.waiting import Leaving

__all__ = ['CELLS', 'Taken', 'Ticket', 'WaitingRoom']

# More of them read less for a batch, but a runner resolves each of them for
# each chunk of elements.
CELLS = 16
# The edges of the cells follow the lengths that wait, after as many arrivals.
_ADAPT_AFTER = 16
# So many that left are remembered, and as many more as wait.
_MOST_GONE = 64
_VERSION = 1
_HEADER = struct.Struct('>BBIqqq')


class Ticket(NamedTuple):
  """Where an element waits, since when, and what bounds its batch.

  Times are in microseconds; ``timestamp`` is the element's event time.
  """
  cell: int
  length: int
  arrived: int
  timestamp: int
  nbytes: int
  values: tuple[int, ...]


class Taken(NamedTuple):
  """A batch that leaves: numbers, ascending by length, and their tickets."""
  numbers: list[int]
  tickets: list[Ticket]


class WaitingRoom:
  """The lengths of all that waits, ascending, and a ticket for each element.

  Attributes:
    lengths: of all that wait, ascending.
    hold: the event time, in microseconds, before which nothing may leave.
    gathers_until: the time, in microseconds, before which nothing is due; 0
      where what is due leaves.
    nbytes: of all elements that wait.
  """
  def __init__(self):
    self.lengths: list[int] = []
    self.hold = 0
    self.gathers_until = 0
    self.nbytes = 0
    # In the order of the lengths, those of equal lengths ascending.
    self._numbers: list[int] = []
    self._tickets: dict[int, Ticket] = {}
    # A heap of (arrived, number), with some of those that left.
    self._arrivals: list[tuple[int, int]] = []
    self._edges: list[int] = []
    self._next = 0

  def __len__(self):
    return len(self._numbers)

  def add(
      self,
      length: int,
      arrived: int,
      timestamp: int,
      nbytes: int,
      values: Sequence[int]) -> tuple[int, int, int]:
    """Lets an element in.

    Returns:
      Its number, its cell and its index among the lengths.
    """
    if self._next % _ADAPT_AFTER == 0:
      self._adapt()
    number, self._next = self._next, self._next + 1
    cell = bisect_right(self._edges, length)
    self._tickets[number] = Ticket(
        cell, length, arrived, timestamp, nbytes, tuple(values))
    heapq.heappush(self._arrivals, (arrived, number))
    self.nbytes += nbytes
    index = bisect_right(self.lengths, length)
    self._numbers.insert(index, number)
    self.lengths.insert(index, length)
    return number, cell, index

  def first_arrival(self) -> int:
    """When what waits longest arrived."""
    return self._first()[0]

  def oldest(self) -> int:
    """The index among the lengths of what arrived first."""
    _, number = self._first()
    length = self._tickets[number].length
    equal = bisect_left(self.lengths, length)
    end = bisect_right(self.lengths, length, equal)
    return bisect_left(self._numbers, number, equal, end)

  def _in_order_of_arrival(self):
    return sorted(
        (ticket.arrived, number) for number, ticket in self._tickets.items())

  def _first(self):
    while self._arrivals[0][1] not in self._tickets:
      heapq.heappop(self._arrivals)
    return self._arrivals[0]

  def nbytes_of(self, run: Leaving) -> int:
    """How many bytes its elements take."""
    numbers = self._numbers[run.start:run.end]
    return sum(self._tickets[number].nbytes for number in numbers)

  def within(
      self,
      run: Leaving,
      index: int,
      limits: Sequence[int],
      is_too_large: Callable[[int, int], bool] = lambda count, longest: False
  ) -> Leaving:
    """The part of a run around an index that keeps all limits.

    What is farther in length from the index stays. A single element leaves even
    where it exceeds a limit.

    Args:
      run: holds the index.
      index: of the element that must leave.
      limits: of the sums of the elements' values.
      is_too_large: of a number of elements and the longest length.
    """
    start, end = run
    lengths = self.lengths
    values = {
        place: self._tickets[self._numbers[place]].values
        for place in range(start, end)
    }
    sums = [sum(column) for column in zip(*values.values())]
    while end - start > 1 and (is_too_large(end - start, lengths[end - 1]) or
                               any(a > b for a, b in zip(sums, limits))):
      longer = lengths[end - 1] - lengths[index]
      if end > index + 1 and (start == index or
                              longer >= lengths[index] - lengths[start]):
        end -= 1
        out = end
      else:
        out = start
        start += 1
      sums = [a - b for a, b in zip(sums, values[out])]
    return Leaving(start, end)

  def take(self, run: Leaving) -> Taken:
    """Lets a batch out."""
    numbers = self._numbers[run.start:run.end]
    del self._numbers[run.start:run.end], self.lengths[run.start:run.end]
    tickets = [self._tickets.pop(number) for number in numbers]
    self.nbytes -= sum(ticket.nbytes for ticket in tickets)
    if len(self._arrivals) > 2 * len(self) + _MOST_GONE:
      self._arrivals = self._in_order_of_arrival()
    return Taken(numbers, tickets)

  def values(self) -> list[tuple[int, ...]]:
    """Those of all that wait, in the order of the lengths."""
    return [self._tickets[number].values for number in self._numbers]

  def in_cells(self) -> Counter:
    """How many elements wait in each cell."""
    return Counter(ticket.cell for ticket in self._tickets.values())

  def _adapt(self):
    """Cells of as many elements each; those that wait stay where they are."""
    count = len(self.lengths)
    if count >= 2 * CELLS:
      self._edges = sorted(
          {self.lengths[part * count // CELLS]
           for part in range(1, CELLS)})

  def encode(self) -> bytes:
    """All of it, about 50 bytes for an element."""
    tickets = self._tickets
    width = len(next(iter(tickets.values())).values) if tickets else 0
    numbers = array('q', [self._next, *self._edges])
    for number, ticket in tickets.items():
      numbers.extend((number, *ticket[:5], *ticket.values))
    header = _HEADER.pack(
        _VERSION,
        width,
        len(tickets),
        len(self._edges),
        self.hold,
        self.gathers_until)
    return header + numbers.tobytes()

  @classmethod
  def decode(cls, encoded: bytes) -> 'WaitingRoom':
    """Raises a ValueError for what a later release has encoded."""
    version, width, count, edges, hold, gathers_until = _HEADER.unpack_from(
        encoded)
    if version != _VERSION:
      raise ValueError(
          f'The state of a waiting buffer has version {version}, this release '
          f'reads {_VERSION}. Drain the pipeline instead of updating it.')
    numbers = array('q')
    numbers.frombytes(encoded[_HEADER.size:])
    room = cls()
    room.hold, room.gathers_until = hold, gathers_until
    room._next = numbers[0]
    room._edges = list(numbers[1:1 + edges])
    step = 6 + width
    for at in range(1 + edges, 1 + edges + count * step, step):
      ticket = Ticket._make(
          [*numbers[at + 1:at + 6], tuple(numbers[at + 6:at + step])])
      room._tickets[numbers[at]] = ticket
      room.nbytes += ticket.nbytes
    ordered = sorted(
        (ticket.length, number) for number, ticket in room._tickets.items())
    room._arrivals = room._in_order_of_arrival()
    room.lengths = [length for length, _ in ordered]
    room._numbers = [number for _, number in ordered]
    return room
