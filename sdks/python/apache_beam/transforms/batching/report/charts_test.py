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

from apache_beam.transforms.batching.report.charts import Point
from apache_beam.transforms.batching.report.charts import Scatter
from apache_beam.transforms.batching.report.charts import spread
from apache_beam.transforms.batching.report.charts import ticks


def _scatter(*points):
  return Scatter('t', 'x', 'y', [Point('p', x, y, '') for x, y in points])


class SpreadTest(unittest.TestCase):
  def test_by_hand(self):
    self.assertEqual([10, 50], spread([10, 50], 20, 100))
    self.assertEqual([20, 40], spread([30, 30], 20, 100))
    self.assertEqual([60, 40, 5], spread([52, 48, 5], 20, 100))
    # At the edges there is space on one side only.
    self.assertEqual([0, 20], spread([2, 1], 20, 100)[::-1])
    self.assertEqual([80, 100], spread([99, 100], 20, 100))
    self.assertEqual([0, 5, 10], spread([4, 5, 6], 20, 10))
    self.assertEqual([], spread([], 20, 10))

  @given(st.lists(st.floats(0, 300), min_size=1, max_size=12))
  def test_leaves_a_gap_and_the_order(self, positions):
    gap = 20
    moved = spread(positions, gap, 300)
    pairs = sorted(zip(moved, positions))
    self.assertEqual(sorted(positions), [position for _, position in pairs])
    for (before, _), (after, _) in itertools.pairwise(pairs):
      self.assertGreaterEqual(after - before, gap - 1e-6)
    self.assertGreaterEqual(min(moved), -1e-6)
    self.assertLessEqual(max(moved), 300 + 1e-6)
    if all(b - a >= gap for a, b in itertools.pairwise(sorted(positions))):
      for there, position in zip(moved, positions):
        self.assertAlmostEqual(position, there)


class TicksTest(unittest.TestCase):
  def test_by_hand(self):
    self.assertEqual([1, 1.5, 2, 2.5, 3], ticks([0.9, 3.4]))
    self.assertEqual([0, 20, 40, 60, 80, 100], ticks([0, 100]))
    self.assertEqual([7], ticks([7, 7]))
    self.assertEqual([0.02, 0.05, 0.1], ticks([0.011, 0.11], is_log=True))
    self.assertEqual([1, 10, 100, 1000], ticks([1, 5000], is_log=True))

  @given(st.lists(st.floats(1e-9, 1e9), min_size=2, max_size=2), st.booleans())
  def test_are_few_and_in_range(self, values, is_log):
    found = ticks(values, is_log)
    self.assertLessEqual(len(found), 6)
    for tick in found:
      self.assertLessEqual(min(values) * (1 - 1e-9), tick)
      self.assertLessEqual(tick, max(values) * (1 + 1e-9))


class ScatterTest(unittest.TestCase):
  def test_places(self):
    chart = _scatter((1, 5), (10, 6), (100, 9), (None, 5))
    self.assertTrue(chart.is_log)
    self.assertEqual([0, 0.5, 1], [chart.x_share(x) for x in chart.xs])
    self.assertEqual([0, 0.25, 1, 0], [chart.y_share(y) for y in chart.ys])

  def test_zero_has_no_logarithm(self):
    chart = _scatter((0, 1), (10, 1), (40, 1))
    self.assertFalse(chart.is_log)
    self.assertEqual([0, 0.25, 1], [chart.x_share(x) for x in chart.xs])
    self.assertEqual(0.5, chart.y_share(1))


if __name__ == '__main__':
  unittest.main()
