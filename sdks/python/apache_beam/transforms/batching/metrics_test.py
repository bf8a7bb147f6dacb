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

import collections
import math
import unittest

from hypothesis import given
from hypothesis import strategies as st

from apache_beam.transforms.batching import metrics
from apache_beam.transforms.batching.metrics import BatchingMetrics


class BatchingMetricsTest(unittest.TestCase):
  def test_fractions_of_a_millisecond_add_up(self):
    counted = {}

    class Counter:
      def __init__(self, name):
        self._name = name

      def inc(self, value=1):
        counted[self._name] = counted.get(self._name, 0) + value

    counters = BatchingMetrics('test')
    counters._predicted, counters._actual = Counter('p'), Counter('a')
    for _ in range(1000):
      counters.prediction(0.00025, 0.0005)
    self.assertAlmostEqual(250, counted['p'], delta=1)
    self.assertAlmostEqual(500, counted['a'], delta=1)

  @given(st.lists(st.integers(1, 10**6), min_size=1), st.floats(0.01, 1))
  def test_quantiles_of_waits(self, waits, share):
    counts = collections.Counter(1 << wait.bit_length() for wait in waits)
    below = metrics._wait_quantile({
        f'wait_msec_below_{edge}': count
        for edge, count in counts.items()
    },
                                   share)
    exact = sorted(waits)[math.ceil(share * len(waits)) - 1]
    self.assertLess(exact, below)
    self.assertLessEqual(below, 2 * exact)


if __name__ == '__main__':
  unittest.main()
