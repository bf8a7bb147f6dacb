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

from apache_beam.tools import batch_elements_microbenchmark

_BENCHMARKS = (
    'global_window', 'global_window_with_sizes', 'fixed_window', 'by_length')


class BatchElementsMicrobenchmarkTest(unittest.TestCase):
  def test_every_benchmark_runs(self):
    costs = batch_elements_microbenchmark.run_benchmark(
        num_runs=2, num_elements=100, verbose=False)
    self.assertEqual(list(_BENCHMARKS), list(costs))
    self.assertEqual([2] * 4, [len(runs) for runs in costs.values()])

  def test_every_element_is_batched(self):
    for name in _BENCHMARKS:
      with self.subTest(name=name):
        benchmark = getattr(batch_elements_microbenchmark, name)
        self.assertEqual(100, benchmark(100)())


if __name__ == '__main__':
  unittest.main()
