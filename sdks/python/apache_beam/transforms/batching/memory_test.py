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

import sys
import unittest

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from apache_beam.transforms.batching.memory import approximate_bytes


class ApproximateBytesTest(unittest.TestCase):
  def test_text_and_bytes(self):
    for element in ('x' * 1000, b'x' * 1000):
      self.assertGreaterEqual(approximate_bytes(element), 1000)
      self.assertLess(approximate_bytes(element), 1100)

  def test_arrays_count_by_their_data(self):
    self.assertEqual(8000, approximate_bytes(np.zeros(1000)))

  def test_containers_count_what_they_hold(self):
    text, array = 'x' * 1000, np.zeros(1000)
    total = approximate_bytes(text) + approximate_bytes(array)
    for element in ((text, array), [text, array], {'a': text, 'b': array},
                    ('key', {'a': [text, array]})):
      self.assertGreaterEqual(approximate_bytes(element), total)
      self.assertLess(approximate_bytes(element), total + 600)

  def test_containers_are_left_at_some_depth(self):
    endless = []
    endless.append(endless)
    self.assertLess(approximate_bytes(endless), 1000)

  def test_a_long_list_takes_few_looks(self):
    class Part:
      looks = 0

      @property
      def nbytes(self):
        Part.looks += 1
        return 100

    parts = [Part() for _ in range(10_000)]
    for element in (parts, tuple(parts), dict(enumerate(parts))):
      Part.looks = 0
      total = sys.getsizeof(element) + 100 * len(parts)
      self.assertEqual(total, approximate_bytes(element))
      self.assertLessEqual(Part.looks, 16)

  @given(st.lists(st.text(max_size=50), max_size=16))
  def test_each_part_of_a_short_list_counts(self, texts):
    self.assertEqual(
        sys.getsizeof(texts) + sum(map(sys.getsizeof, texts)),
        approximate_bytes(texts))

  def test_any_object(self):
    class Strange:
      nbytes = 'many'

      def __sizeof__(self):
        raise TypeError

    class Row(list):
      def __getitem__(self, index):
        raise TypeError('columns alone')

    class Lazy(tuple):
      def __len__(self):
        raise TypeError('not known')

    class Huge:
      nbytes = 10**30

    for element in (Strange(), Row(range(40)), Lazy('ab')):
      self.assertGreater(approximate_bytes(element), 0)
    self.assertLess(approximate_bytes([Huge()] * 1000), 1 << 62)
    self.assertEqual(sys.getsizeof(None), approximate_bytes(None))


if __name__ == '__main__':
  unittest.main()
