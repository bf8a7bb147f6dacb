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

import itertools
import unittest

from hypothesis import given
from hypothesis import strategies as st

from apache_beam.transforms.batching.packing import padded_size
from apache_beam.transforms.batching.packing import take_longest

_LENGTHS = st.lists(st.integers(0, 50), min_size=1, max_size=20).map(sorted)


def _cut(lengths, max_size, max_padded_size=None):
  """Cuts a whole buffer with sizes of 1."""
  batches = []
  while lengths:
    sizes = [1] * len(lengths)
    count = take_longest(lengths, [(sizes, max_size)], max_padded_size)
    batches.append(lengths[-count:])
    lengths = lengths[:-count]
  return batches


class TakeLongestTest(unittest.TestCase):
  def test_count_limit_leaves_the_rest_to_the_short_end(self):
    self.assertEqual([[3, 4], [1, 2], [0]], _cut([0, 1, 2, 3, 4], 2))

  def test_sizes_count_towards_the_limit(self):
    self.assertEqual(2, take_longest([1, 2, 3], [([9, 2, 3], 5)]))

  def test_every_sum_has_its_limit(self):
    sizes, weights = ([1, 1, 1], 2), ([5, 5, 5], 9)
    self.assertEqual(2, take_longest([1, 2, 3], [sizes]))
    self.assertEqual(1, take_longest([1, 2, 3], [sizes, weights]))

  def test_padded_limit_is_longest_times_count(self):
    # The sum of the lengths, 12, would allow three elements; padding does not.
    self.assertEqual(2, take_longest([1, 1, 10], [([1, 1, 1], 10)], 20))

  def test_element_over_a_limit_goes_alone(self):
    self.assertEqual(1, take_longest([1, 100], [([1, 1], 10)], 50))
    self.assertEqual(1, take_longest([1, 1], [([1, 99], 10)]))

  def test_zero_lengths_need_no_padding(self):
    self.assertEqual(3, take_longest([0, 0, 0], [([1, 1, 1], 3)], 1))

  @given(_LENGTHS, st.integers(1, 8), st.one_of(st.none(), st.integers(1, 200)))
  def test_each_element_in_one_batch_within_the_limits(
      self, lengths, max_size, max_padded_size):
    batches = _cut(lengths, max_size, max_padded_size)
    self.assertEqual(lengths, sorted(itertools.chain(*batches)))
    for batch in batches:
      self.assertLessEqual(len(batch), max_size)
      if max_padded_size is not None and len(batch) > 1:
        self.assertLessEqual(padded_size(batch), max_padded_size)

  @given(st.lists(st.integers(0, 9), min_size=6, max_size=6), st.integers(1, 3))
  def test_no_grouping_into_full_batches_pads_less(self, lengths, max_size):
    cut = sum(map(padded_size, _cut(sorted(lengths), max_size)))
    for order in itertools.permutations(lengths):
      other = [order[i:i + max_size] for i in range(0, len(order), max_size)]
      self.assertLessEqual(cut, sum(map(padded_size, other)))

  def test_empty_batch_has_no_size(self):
    self.assertEqual(0, padded_size([]))


if __name__ == '__main__':
  unittest.main()
