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
from apache_beam.transforms.batching.buffer_state import BufferCache
from apache_beam.transforms.batching.buffer_state import Elements
from apache_beam.transforms.batching.policy.flushing import Span


class _Bag:
  """A bag whose reads are counted."""
  def __init__(self):
    self.held = []
    self.written = 0

  def read(self):
    return list(self.held)

  def add(self, value):
    self.held.append(value)
    self.written += 1

  def clear(self):
    self.held = []


def _buffer(count, nbytes=1):
  buffer = Buffer()
  for i in range(count):
    buffer.add(i, i, 0, nbytes, [1])
  return buffer


class BufferCacheTest(unittest.TestCase):
  def test_gives_what_was_put_once_and_only_as_it_was_stored(self):
    cache, buffer = BufferCache(), _buffer(3)
    cache.put('key', 1, buffer, {0: 'a'})
    self.assertEqual(cache.take('key', 1), (buffer, {0: 'a'}))
    self.assertIsNone(cache.take('key', 1))
    cache.put('key', 2, buffer, {})
    # Another worker has changed it meanwhile.
    self.assertIsNone(cache.take('key', 3))
    self.assertIsNone(cache.take('key', 2))

  def test_holds_bounded_numbers_of_entries_and_bytes(self):
    cache = BufferCache(max_bytes=1000, max_entries=50)
    for key in range(30):
      cache.put(key, 0, _buffer(10, nbytes=25), {})
      self.assertLessEqual(cache._bytes, 1000)
      self.assertLessEqual(cache._entries, 50)
    found = [key for key in range(30) if cache.take(key, 0)]
    self.assertEqual(found, [26, 27, 28, 29])
    self.assertEqual((cache._bytes, cache._entries), (0, 0))

  def test_of_large_elements_the_entries_stay(self):
    cache, buffer = BufferCache(max_bytes=1000), _buffer(10, nbytes=100)
    cache.put('key', 0, buffer, {0: 'large'})
    self.assertEqual(cache.take('key', 0), (buffer, {}))


class ElementsTest(unittest.TestCase):
  @given(
      st.lists(
          st.one_of(
              st.integers(0, 50), st.sampled_from(['take', 'store', 'forget'])),
          max_size=200))
  def test_each_is_taken_once_whatever_is_known(self, steps):
    buffer, bags = Buffer(), [_Bag() for _ in range(BUCKETS)]
    elements, expected, taken, removed = Elements(buffer, bags, {}), {}, [], 0
    for step in [*steps, 'store']:
      if step in ('store', 'forget'):
        elements.store()
        if step == 'forget':
          elements = Elements(buffer, bags, {})
        in_state = {pair for bag in bags for pair in bag.held}
        self.assertLessEqual(set(expected.items()), in_state)
        self.assertEqual([len(bag.held) for bag in bags], buffer.stored)
        for held, stored in zip(buffer.held, buffer.stored):
          self.assertLessEqual(stored, 2 * held + 16)
      elif step == 'take':
        if len(buffer):
          batch = buffer.take(Span(0, min(3, len(buffer))))
          found = elements.take(batch)
          self.assertEqual(found, [expected.pop(n) for n in batch.numbers])
          taken += found
          removed += len(found)
      else:
        number, bucket = buffer.add(step, 0, 0, 1, [1])
        expected[number] = f'{number}'
        elements.add(bucket, number, f'{number}')
    self.assertEqual(len(taken), len(set(taken)))
    # Written when it is added, and again where as many were removed.
    added = len(taken) + len(expected)
    self.assertLessEqual(sum(bag.written for bag in bags), added + removed)


if __name__ == '__main__':
  unittest.main()
