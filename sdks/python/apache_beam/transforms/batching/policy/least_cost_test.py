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

import bisect
import itertools
import math
import random
import unittest
from unittest import mock

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from apache_beam.transforms.batching.policy import least_cost
from apache_beam.transforms.batching.policy.least_cost import Cost
from apache_beam.transforms.batching.policy.least_cost import least_cost_cut
from apache_beam.transforms.batching.policy.least_cost import padded_size

_WHOLE_COSTS = st.builds(
    Cost,
    st.integers(0, 100),
    st.integers(0, 3),
    st.integers(0, 2),
    st.integers(0, 2))
# Not so near to 0 that dividing loses digits.
_FLOAT_COSTS = st.builds(Cost, *[st.just(0.0) | st.floats(1e-9, 10)] * 4)


@st.composite
def _buffers(draw):
  """Lengths, sums, max_padded_size and max_variable_cost, all limits at once."""
  lengths = sorted(draw(st.lists(st.integers(0, 50), min_size=1, max_size=9)))
  values = st.lists(
      st.integers(0, 9), min_size=len(lengths), max_size=len(lengths))
  return (
      lengths,
      [([1] * len(lengths), draw(st.integers(1, 9))),
       (draw(values), draw(st.integers(0, 30)))],
      draw(st.one_of(st.none(), st.integers(1, 300))),
      draw(st.one_of(st.none(), st.integers(0, 500))))


def _large_buffer(count):
  rng = random.Random(count)
  lengths = sorted(int(rng.lognormvariate(5, 1.2)) for _ in range(count))
  weights = [rng.randrange(9) for _ in lengths]
  return lengths, [([1] * count, 32), (weights, 100)], 10_000, None


def _batches(ends):
  """The batches, as pairs of start and end."""
  return list(zip([0] + ends[:-1], ends))


def _total(cost, lengths, ends):
  return sum(
      cost.of(end - start, lengths[end - 1]) for start, end in _batches(ends))


def _is_allowed(
    start, end, cost, lengths, sums, max_padded_size, max_variable_cost):
  """Whether a batch is within the limits, or a single element."""
  longest = lengths[end - 1]
  return end - start == 1 or (
      all(sum(values[start:end]) <= limit for values, limit in sums) and
      (not max_padded_size or longest * (end - start) <= max_padded_size) and (
          max_variable_cost is None or
          cost.of(end - start, longest) - cost.fixed <= max_variable_cost))


def _allowed_cuts(cost, lengths, *limits):
  """The ends of every cut that the limits allow."""
  for more in range(len(lengths)):
    for ends in itertools.combinations(range(1, len(lengths)), more):
      ends = [*ends, len(lengths)]
      if all(_is_allowed(*batch, cost, lengths, *limits)
             for batch in _batches(ends)):
        yield ends


def _greedy_cut(cost, lengths, *limits):
  """Starts at the long end; each batch as large as the limits allow."""
  ends = []
  end = len(lengths)
  while end:
    ends.insert(0, end)
    end = min(
        start for start in range(max(0, end - 32), end)
        if _is_allowed(start, end, cost, lengths, *limits))
  return ends


class PaddedSizeTest(unittest.TestCase):
  def test_longest_times_count(self):
    self.assertEqual(27, padded_size([5, 9, 1]))
    self.assertEqual(0, padded_size([]))


class CostTest(unittest.TestCase):
  def test_cost_of_a_batch(self):
    self.assertEqual(
        100 + 2 * 30 + 5 * 300 + 7 * 900, Cost(100, 2, 5, 7).of(3, 10))

  def test_bad_values_are_named(self):
    for name in ('fixed', 'per_token', 'per_token_squared',
                 'per_batch_squared'):
      for bad in (-1, math.nan, float('inf')):
        with self.subTest(name=name, bad=bad):
          with self.assertRaisesRegex(ValueError, rf'Cost\({name}='):
            Cost(**{'fixed': 1, 'per_token': 1, name: bad})


class LeastCostCutTest(unittest.TestCase):
  @settings(deadline=None)
  @given(_buffers(), _WHOLE_COSTS)
  def test_no_cut_costs_less_or_as_much_in_fewer_batches(self, buffer, cost):
    ends = least_cost_cut(buffer[0], cost, *buffer[1:])
    cuts = list(_allowed_cuts(cost, *buffer))
    self.assertIn(ends, cuts)
    self.assertEqual(
        min((_total(cost, buffer[0], cut), len(cut)) for cut in cuts),
        (_total(cost, buffer[0], ends), len(ends)))

  @settings(deadline=None)
  @given(_buffers(), _FLOAT_COSTS)
  def test_rounding_costs_next_to_nothing(self, buffer, cost):
    ends = least_cost_cut(buffer[0], cost, *buffer[1:])
    cuts = list(_allowed_cuts(cost, *buffer))
    self.assertIn(ends, cuts)
    least = min(_total(cost, buffer[0], cut) for cut in cuts)
    self.assertLessEqual(_total(cost, buffer[0], ends), least * (1 + 1e-12))

  @settings(deadline=None)
  @given(_buffers(), _WHOLE_COSTS, st.integers(2, 5))
  def test_fewest_small_batches_then_the_least_cost(self, buffer, cost, size):
    def small_and_cost(ends):
      small = sum(end - start < size for start, end in _batches(ends))
      return small, _total(cost, buffer[0], ends)

    ends = least_cost_cut(buffer[0], cost, *buffer[1:], min_batch_size=size)
    cuts = list(_allowed_cuts(cost, *buffer))
    self.assertIn(ends, cuts)
    self.assertEqual(min(map(small_and_cost, cuts)), small_and_cost(ends))

  def test_large_buffer_is_no_worse_than_other_cuts(self):
    lengths, *limits = _large_buffer(3000)
    for fixed in (0, 200, 100_000):
      cost = Cost(fixed, 1)
      ends = least_cost_cut(lengths, cost, *limits)
      for batch in _batches(ends):
        self.assertLess(*batch)
        self.assertTrue(_is_allowed(*batch, cost, lengths, *limits))
      self.assertEqual(len(lengths), ends[-1])
      self.assertLessEqual(
          _total(cost, lengths, ends),
          _total(cost, lengths, _greedy_cut(cost, lengths, *limits)))

  def test_no_fixed_size_costs_less(self):
    lengths = _large_buffer(1000)[0]
    cost = Cost(200, 1, 0.001)
    least = _total(
        cost, lengths, least_cost_cut(lengths, cost, [([1] * 1000, 32)]))
    for size in range(1, 33):
      ends = [*range(size, 1000, size), 1000]
      self.assertLessEqual(least, _total(cost, lengths, ends))

  def test_only_equal_lengths_are_joined_where_calls_are_free(self):
    self.assertEqual([2, 3, 6], least_cost_cut([1, 1, 2, 5, 5, 5], Cost(0, 1)))

  def test_fewest_batches_where_calls_are_dear(self):
    lengths, *limits = _large_buffer(1000)
    cost = Cost(10**9, 1)
    ends = least_cost_cut(lengths, cost, *limits)
    self.assertEqual(len(_greedy_cut(cost, lengths, *limits)), len(ends))

  def test_batches_are_as_large_as_a_limit_of_their_cost_allows(self):
    # Five elements cost 5 * 1 and 5**2 * 1 beside the fixed cost.
    for limit, ends in ((30, [5, 10]), (29.9, [3, 6, 10]), (1, [*range(1, 11)])):
      self.assertEqual(
          ends,
          least_cost_cut(10 * [1], Cost(100, 1, 0, 1), max_variable_cost=limit))

  def test_element_over_a_limit_goes_alone(self):
    self.assertEqual([2, 3], least_cost_cut([1, 1, 9], Cost(99, 1), (), 4))
    self.assertEqual([1, 2, 3],
                     least_cost_cut([1, 1, 1], Cost(99, 1), [([1, 9, 1], 4)]))

  def test_empty_buffer_has_no_batches(self):
    self.assertEqual([], least_cost_cut([], Cost(1, 1), [([], 1)], 1))

  def test_work_grows_with_the_buffer_and_not_with_the_batches(self):
    for count, size in ((1000, 32), (1000, 1000), (8000, 32), (8000, 8000)):
      lengths = _large_buffer(count)[0]
      with mock.patch.object(least_cost,
                             'bisect_right',
                             wraps=bisect.bisect_right) as compare:
        least_cost_cut(lengths, Cost(200, 1), [([1] * count, size)])
      self.assertLessEqual(compare.call_count, 2 * count)


if __name__ == '__main__':
  unittest.main()
