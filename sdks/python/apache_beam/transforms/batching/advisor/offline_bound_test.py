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

import functools
import random
import unittest

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from apache_beam.transforms.batching.advisor.offline_bound import offline_bound
from apache_beam.transforms.batching.policy.least_cost import Cost
from apache_beam.transforms.batching.policy.priced_window import PricedWindow
from apache_beam.transforms.batching.policy.replay import replay


def _optimum(arrivals, cost, max_batch_size, max_wait):
  """The least cost of all ways to part a few elements into batches."""
  @functools.cache
  def least(rest):
    if not rest:
      return 0
    first, others = rest[0], rest[1:]
    costs = []
    for chosen in range(2**len(others)):
      batch = [first] + [e for i, e in enumerate(others) if chosen >> i & 1]
      times = [time for time, _ in batch]
      if len(batch) <= max_batch_size and max(times) - min(times) <= max_wait:
        left = tuple(e for i, e in enumerate(others) if not chosen >> i & 1)
        longest = max(length for _, length in batch)
        costs.append(cost.of(len(batch), longest) + least(left))
    return min(costs)

  return least(tuple(arrivals))


class OfflineBoundTest(unittest.TestCase):
  @settings(deadline=None)
  @given(
      st.lists(
          st.tuples(st.integers(0, 10), st.integers(0, 100)),
          min_size=1,
          max_size=6),
      st.builds(
          Cost,
          st.integers(0, 200),
          st.integers(0, 2),
          st.integers(0, 1),
          st.integers(0, 1)),
      st.integers(1, 4),
      st.integers(0, 10))
  def test_no_partition_costs_less(self, arrivals, cost, most, max_wait):
    arrivals.sort()
    times, lengths = zip(*arrivals)
    bound = offline_bound(lengths, times, cost, most, max_wait)
    best = _optimum(arrivals, cost, most, max_wait)
    self.assertLessEqual(bound, best * (1 + 1e-9) + 1e-6)

  def test_is_reached_by_full_batches_without_padding(self):
    cost = Cost(200, 1)
    bound = offline_bound([50] * 8, [0] * 8, cost, 4, 1)
    self.assertAlmostEqual(2 * cost.of(4, 50), bound)

  def test_lone_elements_pay_for_their_own_call(self):
    cost = Cost(200, 1)
    self.assertAlmostEqual(
        2 * cost.of(1, 50), offline_bound([50, 50], [0, 10], cost, 4, 1))

  def test_is_near_what_a_policy_reaches(self):
    rng = random.Random(0)
    lengths = [1 + int(rng.lognormvariate(5, 1.2)) for _ in range(500)]
    times = [i / 100 for i in range(500)]
    cost = Cost(200, 1)
    replayed = replay(lengths, times, PricedWindow(cost, 32), 2)
    reached = sum(cost.of(b.count, b.longest) for b in replayed.batches)
    bound = offline_bound(lengths, times, cost, 32, 2)
    self.assertTrue(0.9 * reached < bound < reached, (bound, reached))

  def test_nothing_costs_nothing(self):
    self.assertEqual(0, offline_bound([], [], Cost(1, 1), 4, 1))

  def test_negative_wait(self):
    with self.assertRaisesRegex(ValueError, 'max_wait_secs=-1'):
      offline_bound([1], [0], Cost(1, 1), 4, -1)


if __name__ == '__main__':
  unittest.main()
