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

import threading
import unittest

from hypothesis import given
from hypothesis import strategies as st

from apache_beam.transforms.batching.policy.memory_limit import MemoryLimit
from apache_beam.transforms.batching.policy.memory_limit import report_out_of_memory
from apache_beam.transforms.batching.policy.memory_limit import reported


class MemoryLimitTest(unittest.TestCase):
  def _check_limits(self, limit, *expected):
    """Each is the limit of 64 batches that fit."""
    for padded_size in expected:
      for _ in range(64):
        self.assertEqual(limit.limit, padded_size)
        limit.learn(padded_size, failed=False)

  def test_halves_what_failed_and_recovers(self):
    limit = MemoryLimit()
    # The second time as the first.
    for _ in range(2):
      limit.learn(1000, failed=True)
      self._check_limits(limit, 500, 1000, 2000)
      self.assertIsNone(limit.limit)

  def test_recovers_to_twice_what_failed(self):
    limit = MemoryLimit()
    limit.learn(3, failed=True)
    self._check_limits(limit, 1, 2, 4)
    self.assertIsNone(limit.limit)

  def test_batches_that_fit_before_a_failure_do_not_count(self):
    limit = MemoryLimit()
    limit.learn(1000, failed=True)
    for _ in range(63):
      limit.learn(500, failed=False)
    limit.learn(500, failed=True)
    self._check_limits(limit, 250)
    self.assertEqual(limit.limit, 500)

  @given(st.lists(st.tuples(st.integers(1, 9000), st.booleans()), max_size=300))
  def test_is_positive_and_below_what_failed(self, batches):
    limit = MemoryLimit()
    for padded_size, failed in batches:
      limit.learn(padded_size, failed)
      if failed:
        self.assertLessEqual(limit.limit, max(1, padded_size // 2))
      self.assertTrue(limit.limit is None or limit.limit >= 1)

  def test_a_report_is_of_one_batch_from_any_thread(self):
    first, second = ['a'], ['a']
    with reported(first) as of_first, reported(second) as of_second:
      thread = threading.Thread(
          target=report_out_of_memory, args=(first, ))
      thread.start()
      thread.join()
      report_out_of_memory(['a'])
    report_out_of_memory(second)
    self.assertTrue(of_first.out_of_memory)
    self.assertFalse(of_second.out_of_memory)


if __name__ == '__main__':
  unittest.main()
