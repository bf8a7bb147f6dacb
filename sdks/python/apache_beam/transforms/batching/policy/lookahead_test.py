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
import math
import random
import unittest

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from apache_beam.transforms.batching.policy.least_cost import Cost
from apache_beam.transforms.batching.policy.least_cost import least_cost_cut
from apache_beam.transforms.batching.policy.least_cost import padded_size
from apache_beam.transforms.batching.policy.lookahead import Limits
from apache_beam.transforms.batching.policy.lookahead import cut_into_runs

_LENGTHS = st.lists(st.integers(0, 200), max_size=60).map(sorted)
_COSTS = st.builds(Cost, st.integers(0, 500), st.integers(0, 3))


def _spans(runs):
  return sorted((run.start, run.end) for run in runs)


class CutIntoRunsTest(unittest.TestCase):
  @settings(deadline=None)
  @given(
      _LENGTHS,
      _COSTS,
      st.integers(1, 9),
      st.integers(1, 9),
      st.lists(st.integers(1, 200)).map(sorted))
  def test_each_element_once_within_all_limits(
      self, lengths, cost, most, least, boundaries):
    limits = Limits(min(least, most), 300, 400, boundaries)
    runs = cut_into_runs(lengths, cost, [([1] * len(lengths), most)], limits)
    indices = [i for start, end in _spans(runs) for i in range(start, end)]
    self.assertEqual(list(range(len(lengths))), indices)
    self.assertEqual(runs, sorted(runs, key=lambda run: run.waste))
    for run in runs:
      batch = lengths[run.start:run.end]
      self.assertEqual(cost.of(len(batch), batch[-1]), run.cost)
      self.assertEqual(len(batch) < min(least, most), math.isinf(run.waste))
      variable = run.cost - cost.fixed
      self.assertTrue(
          len(batch) == 1 or (
              len(batch) <= most and padded_size(batch) <= 300 and
              variable <= 400))
      for boundary in boundaries:
        self.assertEqual(batch[0] < boundary, batch[-1] < boundary)

  @given(_LENGTHS, _COSTS)
  def test_without_other_limits_it_is_the_least_cost_cut(self, lengths, cost):
    sums = [([1] * len(lengths), 8)]
    ends = least_cost_cut(lengths, cost, sums)
    self.assertEqual([*itertools.pairwise([0, *ends])],
                     _spans(cut_into_runs(lengths, cost, sums)))

  @settings(deadline=None)
  @given(_LENGTHS, _COSTS, st.integers(2, 8))
  def test_fixed_size_is_kept_by_all_but_one(self, lengths, cost, size):
    runs = cut_into_runs(
        lengths, cost, [([1] * len(lengths), size)], Limits(size))
    sizes = [run.end - run.start for run in runs]
    self.assertLessEqual(sum(count < size for count in sizes), 1)

  def test_padding_and_calls_that_are_not_full_are_waste(self):
    # Two batches of 2: one without padding, one of lengths 30 and 50.
    runs = cut_into_runs([10, 10, 30, 50], Cost(100, 1), [([1] * 4, 2)])
    self.assertEqual([(0, 2, 120, 0), (2, 4, 200, 20)],
                     [(r.start, r.end, r.cost, r.waste) for r in runs])
    # A single one behind them pays for the half of a call that is empty.
    runs = cut_into_runs([10, 10, 50], Cost(100, 1), [([1] * 3, 2)])
    self.assertEqual([0, 50], [run.waste for run in runs])

  def test_as_full_as_can_be_between_boundaries(self):
    lengths = sorted(random.Random(0).choices(range(100), k=200))
    runs = cut_into_runs(
        lengths, Cost(0, 1), [([1] * 200, 32)], Limits(boundaries=(50, )))
    below = sum(length < 50 for length in lengths)
    self.assertEqual(-(-below // 32) + -(-(200 - below) // 32), len(runs))


if __name__ == '__main__':
  unittest.main()
