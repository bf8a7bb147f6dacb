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

"""What is buffered under one key: lengths and times; elements are elsewhere.

A batch takes neighbours by length, so elements of similar length are kept in
one bucket, and a batch reads one or two buckets instead of all elements.

The buffer is stored as a log: entries as they are added, numbers as they are
removed. So what is written for an element does not grow with the buffer.
"""

import heapq
import struct
from array import array
from bisect import bisect_left
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import NamedTuple

from apache_beam.transforms.batching.policy.flushing import Span

# More of them read less for a batch, but a runner resolves each of them for
# each group of elements.
BUCKETS = 16
# The edges of the buckets follow the buffered lengths, after as many arrivals.
_ADAPT_AFTER = 16
# So many that were removed are remembered, and as many more as are buffered.
_MOST_REMOVED = 64
_VERSION = 2
# Version, nonce, next number, how many entries and removed numbers were logged,
# hold, gathers_until, timer, and how many elements each bucket has in state.
_HEADER = struct.Struct(f'>BQqqqqq{BUCKETS}I')
_ADDED, _REMOVED = 0, 1
# Kind, and how many values an entry has.
_RECORD = struct.Struct('>BB')
# Number, bucket, length, arrived, timestamp and bytes of an entry.
_FIELDS = 6


class Entry(NamedTuple):
  """Where an element is buffered, since when, and what bounds its batch.

  Times are in microseconds; ``timestamp`` is the element's event time.
  """
  bucket: int
  length: int
  arrived: int
  timestamp: int
  nbytes: int
  values: tuple[float, ...]


class Taken(NamedTuple):
  """A batch: numbers, ascending by length, and their entries."""
  numbers: list[int]
  entries: list[Entry]


class Buffer:
  """The lengths of all that is buffered, ascending, and an entry for each.

  Attributes:
    lengths: of all that is buffered, ascending.
    hold: the event time, in microseconds, before which nothing may be emitted.
    gathers_until: the time, in microseconds, before which nothing is due; 0
      where what is due is flushed.
    timer: when the deadline's timer fires, in microseconds; 0 if it is not set.
    nbytes: of all elements.
    held: how many elements are buffered in each bucket.
    stored: how many of each bucket are in state, with some of those removed.
    arrived: lengths in the order in which they came, of as many elements as are
      buffered, to tell what batching in that order would have cost.
  """
  def __init__(self):
    self.lengths: list[int] = []
    self.hold = 0
    self.gathers_until = self.timer = 0
    self.nbytes = 0
    self.held = [0] * BUCKETS
    self.stored = [0] * BUCKETS
    self.arrived: deque[int] = deque()
    # In the order of the lengths, those of equal lengths ascending.
    self._numbers: list[int] = []
    self._entries: dict[int, Entry] = {}
    # A heap of (arrived, number), with some of those that were removed.
    self._arrivals: list[tuple[int, int]] = []
    self._edges: list[int] = []
    self._next = 0
    self._logged = 0
    self._added: list[int] = []
    self._removed: list[int] = []

  def __len__(self):
    return len(self._numbers)

  def __contains__(self, number: int):
    return number in self._entries

  def add(
      self,
      length: int,
      arrived: int,
      timestamp: int,
      nbytes: int,
      values: Sequence[float]) -> tuple[int, int]:
    """Adds an element; returns its number and its bucket."""
    if self._next % _ADAPT_AFTER == 0:
      self._adapt()
    number, self._next = self._next, self._next + 1
    bucket = bisect_right(self._edges, length)
    self._added.append(number)
    self.arrived.append(length)
    self._enter(
        number,
        Entry(bucket, length, arrived, timestamp, nbytes, tuple(values)))
    heapq.heappush(self._arrivals, (arrived, number))
    index = bisect_right(self.lengths, length)
    self._numbers.insert(index, number)
    self.lengths.insert(index, length)
    return number, bucket

  @property
  def added(self) -> int:
    """How many elements were ever added."""
    return self._next

  def _enter(self, number, entry):
    self._entries[number] = entry
    self.nbytes += entry.nbytes
    self.held[entry.bucket] += 1

  def first_arrival(self) -> int:
    """When the oldest element arrived."""
    return self._first()[0]

  def oldest(self) -> int:
    """The index among the lengths of what arrived first."""
    _, number = self._first()
    length = self._entries[number].length
    equal = bisect_left(self.lengths, length)
    end = bisect_right(self.lengths, length, equal)
    return bisect_left(self._numbers, number, equal, end)

  def _in_order_of_arrival(self):
    return sorted(
        (entry.arrived, number) for number, entry in self._entries.items())

  def _first(self):
    while self._arrivals[0][1] not in self._entries:
      heapq.heappop(self._arrivals)
    return self._arrivals[0]

  def nbytes_of(self, run: Span) -> int:
    """How many bytes its elements take."""
    numbers = self._numbers[run.start:run.end]
    return sum(self._entries[number].nbytes for number in numbers)

  def within(
      self,
      run: Span,
      index: int,
      limits: Sequence[float],
      is_too_large: Callable[[int, int], bool] = lambda count, longest: False
  ) -> Span:
    """The part of a run around an index that keeps all limits.

    What is farther in length from the index stays. A single element is flushed
    even where it exceeds a limit.

    Args:
      run: holds the index.
      index: of the element that must be in the batch.
      limits: of the sums of the elements' values.
      is_too_large: of a number of elements and the longest length.
    """
    start, end = run
    lengths = self.lengths
    values = {
        place: self._entries[self._numbers[place]].values
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
    return Span(start, end)

  def take(self, run: Span) -> Taken:
    """Removes a batch."""
    numbers = self._numbers[run.start:run.end]
    del self._numbers[run.start:run.end], self.lengths[run.start:run.end]
    entries = [self._entries.pop(number) for number in numbers]
    for entry in entries:
      self.nbytes -= entry.nbytes
      self.held[entry.bucket] -= 1
    self._removed += numbers
    if len(self._arrivals) > 2 * len(self) + _MOST_REMOVED:
      self._arrivals = self._in_order_of_arrival()
    return Taken(numbers, entries)

  def values(self) -> list[tuple[float, ...]]:
    """Those of all that is buffered, in the order of the lengths."""
    return [self._entries[number].values for number in self._numbers]

  def in_bucket(self, bucket: int) -> list[int]:
    """The numbers of the elements that are in a bucket."""
    return [
        number for number, entry in self._entries.items()
        if entry.bucket == bucket
    ]

  def _adapt(self):
    """Buckets of as many elements each; buffered ones stay where they are."""
    count = len(self.lengths)
    if count >= 2 * BUCKETS:
      self._edges = sorted(
          {self.lengths[part * count // BUCKETS]
           for part in range(1, BUCKETS)})

  def header(self, nonce: int) -> bytes:
    """All but the entries, about 200 bytes.

    Args:
      nonce: tells one state of the buffer from another, in 64 bits.
    """
    return _HEADER.pack(
        _VERSION,
        nonce,
        self._next,
        self._logged,
        self.hold,
        self.gathers_until,
        self.timer,
        *self.stored) + array('q', self._edges).tobytes()

  def log(self) -> tuple[bool, list[bytes]]:
    """What the log is to hold beside what it holds, and whether it starts anew.

    It starts anew, with what is buffered, where most of it was removed: so it
    is written twice at most.
    """
    added = [number for number in self._added if number in self._entries]
    logged = set(self._added)
    removed = [number for number in self._removed if number not in logged]
    self._added, self._removed = [], []
    self._logged += len(added) + len(removed)
    if self._logged <= 2 * len(self) + _MOST_REMOVED:
      records = [self._entries_record(added)] if added else []
      if removed:
        records.append(
            _RECORD.pack(_REMOVED, 0) + array('q', removed).tobytes())
      return False, records
    self._logged = len(self)
    return True, [self._entries_record(list(self._entries))]

  def _entries_record(self, numbers):
    width = len(self._entries[numbers[0]].values)
    whole, values = array('q'), array('d')
    for number in numbers:
      entry = self._entries[number]
      whole.extend((number, *entry[:_FIELDS - 1]))
      values.extend(entry.values)
    return _RECORD.pack(_ADDED, width) + whole.tobytes() + values.tobytes()

  @staticmethod
  def nonce_of(header: bytes) -> int:
    """The one that a header was made with.

    Raises:
      ValueError: for a header of another release.
    """
    version, nonce = struct.unpack_from('>BQ', header)
    if version != _VERSION:
      raise ValueError(
          f'The state of a buffer has version {version}, this release reads '
          f'{_VERSION}. Drain the pipeline instead of updating it.')
    return nonce

  @classmethod
  def restore(cls, header: bytes, log: Iterable[bytes]) -> 'Buffer':
    """The buffer of a header and all records of its log, in any order.

    Raises:
      ValueError: for a header of another release.
    """
    cls.nonce_of(header)
    buffer, edges = cls(), array('q')
    _, _, buffer._next, buffer._logged, *rest = _HEADER.unpack_from(header)
    buffer.hold, buffer.gathers_until, buffer.timer, *buffer.stored = rest
    edges.frombytes(header[_HEADER.size:])
    buffer._edges = edges.tolist()
    added, removed = {}, set()
    for record in log:
      kind, width = _RECORD.unpack_from(record)
      if kind == _REMOVED:
        numbers = array('q')
        numbers.frombytes(record[_RECORD.size:])
        removed.update(numbers)
      else:
        added.update(_entries_of(record[_RECORD.size:], width))
    for number in sorted(added.keys() - removed):
      buffer._enter(number, added[number])
      buffer.arrived.append(added[number].length)
    ordered = sorted(
        (entry.length, number) for number, entry in buffer._entries.items())
    buffer._arrivals = buffer._in_order_of_arrival()
    buffer.lengths = [length for length, _ in ordered]
    buffer._numbers = [number for _, number in ordered]
    return buffer


def _entries_of(record, width):
  """Pairs of a number and an entry."""
  whole, values = array('q'), array('d')
  count = len(record) // (8 * (_FIELDS + width))
  whole.frombytes(record[:8 * _FIELDS * count])
  values.frombytes(record[8 * _FIELDS * count:])
  for i in range(count):
    number, *fields = whole[i * _FIELDS:(i + 1) * _FIELDS]
    yield number, Entry(*fields, tuple(values[i * width:(i + 1) * width]))
