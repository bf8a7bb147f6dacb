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

"""A buffer in state, and a copy of it in memory while nobody else changes it."""

import collections
import random
import threading
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from apache_beam.transforms.batching.buffer import Buffer
from apache_beam.transforms.batching.buffer import Taken

# Of all buffers that a process keeps in memory.
_MAX_BYTES = 64 << 20
_MAX_ENTRIES = 1 << 16
# A bucket is written anew when more than half of it, and as many, were removed.
_MOST_REMOVED = 16


class _Kept(NamedTuple):
  nonce: int
  buffer: Buffer
  elements: dict[int, Any]
  nbytes: int


class BufferCache:
  """Buffers as they were stored last, by key; those used least go first.

  A buffer is taken out while it is used, so that a bundle which fails leaves
  nothing, and its nonce tells whether state is still what it was.
  """
  def __init__(
      self, max_bytes: int = _MAX_BYTES, max_entries: int = _MAX_ENTRIES):
    self._max_bytes = max_bytes
    self._max_entries = max_entries
    self._kept: collections.OrderedDict[Any, _Kept] = collections.OrderedDict()
    self._bytes = self._entries = 0
    self._lock = threading.Lock()

  def take(self, key: Any, nonce: int) -> tuple[Buffer, dict[int, Any]] | None:
    """A buffer and those of its elements that are known; None if it changed."""
    with self._lock:
      kept = self._remove(key)
    if kept is None or kept.nonce != nonce:
      return None
    return kept.buffer, kept.elements

  def put(
      self, key: Any, nonce: int, buffer: Buffer, elements: dict[int,
                                                                 Any]) -> None:
    nbytes = buffer.nbytes
    if nbytes > self._max_bytes // 2:
      # The entries alone, so that at least these need not be read.
      elements, nbytes = {}, 0
    with self._lock:
      self._remove(key)
      self._kept[key] = _Kept(nonce, buffer, elements, nbytes)
      self._bytes += nbytes
      self._entries += len(buffer)
      while self._bytes > self._max_bytes or self._entries > self._max_entries:
        self._remove(next(iter(self._kept)))

  def _remove(self, key):
    kept = self._kept.pop(key, None)
    if kept is not None:
      self._bytes -= kept.nbytes
      self._entries -= len(kept.buffer)
    return kept


_CACHE = BufferCache()


class StoredBuffer:
  """The state of one key and window, while a bundle works on it.

  Args:
    header: ReadModifyWrite state of bytes.
    log: BagState of bytes.
    bags: BagStates of (number, element) pairs, one for each bucket.
    key: identifies the transform, the key and the window in this process.
    cache: where it is kept in memory.
  """
  def __init__(
      self, header, log, bags: Sequence, key: Any, cache: BufferCache = _CACHE):
    self._header = header
    self._log = log
    self._key = key
    self._cache = cache
    self._was_empty = True
    self.buffer, known = self._load()
    self.elements = Elements(self.buffer, bags, known)

  def _load(self):
    header = self._header.read()
    if not header:
      return Buffer(), {}
    self._was_empty = False
    found = self._cache.take(self._key, Buffer.nonce_of(header))
    return found or (Buffer.restore(header, self._log.read()), {})

  def store(self) -> None:
    """Writes what has changed; nothing stays of an empty buffer."""
    buffer = self.buffer
    self.elements.store()
    if not len(buffer):
      if not self._was_empty:
        self._header.clear()
        self._log.clear()
      return
    anew, records = buffer.log()
    if anew:
      self._log.clear()
    for record in records:
      self._log.add(record)
    nonce = random.getrandbits(64)
    self._header.write(buffer.header(nonce))
    self._cache.put(self._key, nonce, buffer, self.elements.known)


class Elements:
  """The elements of a buffer. Buckets are read only where they are not known.

  Attributes:
    known: elements by number, those that need not be read.
    read: how many elements were read from state.
  """
  def __init__(self, buffer: Buffer, bags: Sequence, known: dict[int, Any]):
    self._buffer = buffer
    self._bags = bags
    self._touched: set[int] = set()
    # Numbers of what is not in state yet, by bucket.
    self._new: dict[int, list[int]] = collections.defaultdict(list)
    self.known = known
    self.read = 0

  def add(self, bucket: int, number: int, element: Any) -> None:
    self._new[bucket].append(number)
    self.known[number] = element

  def take(self, taken: Taken) -> list[Any]:
    """The elements of a batch that was removed, in its order."""
    elements = []
    for number, entry in zip(taken.numbers, taken.entries):
      if number not in self.known:
        self._read(entry.bucket, taken.numbers)
      elements.append(self.known.pop(number))
      self._touched.add(entry.bucket)
    return elements

  def _read(self, bucket, wanted):
    wanted = set(wanted)
    for number, element in self._bags[bucket].read():
      self.read += 1
      if number in self._buffer or number in wanted:
        self.known.setdefault(number, element)

  def store(self) -> None:
    """Writes what was added and not removed since, and buckets anew of which most
    was removed: twice at most."""
    buffer = self._buffer
    for bucket in self._touched | self._new.keys():
      held, stored = buffer.held[bucket], buffer.stored[bucket]
      numbers = [n for n in self._new.pop(bucket, ()) if n in buffer]
      if stored and (not held or
                     stored + len(numbers) > 2 * held + _MOST_REMOVED):
        numbers = buffer.in_bucket(bucket)
        if any(number not in self.known for number in numbers):
          self._read(bucket, ())
        self._bags[bucket].clear()
        buffer.stored[bucket] = 0
      for number in numbers:
        self._bags[bucket].add((number, self.known[number]))
      buffer.stored[bucket] += len(numbers)
    self._touched.clear()
