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

from apache_beam.ml.inference.iterative.durable.poll_schedule import PollTimes


class PollTimesTest(unittest.TestCase):
  @given(st.lists(st.floats(0.05, 10), min_size=1, max_size=40))
  def test_requests_are_polled_together(self, dues):
    poll_times = PollTimes()
    times = [poll_times.at(due, 0.0) for due in dues]
    for due, at in zip(dues, times):
      self.assertLessEqual(at - due, 0.06 + 1e-9)
      self.assertLessEqual(due - at, 0.025 + 1e-9)
    apart = sorted(set(times))
    for one, other in zip(apart, apart[1:]):
      self.assertGreater(other - one, 0.025 - 1e-9)

  def test_no_request_is_polled_again_at_once(self):
    poll_times, now = PollTimes(), 1.0
    for _ in range(10):
      at = poll_times.at(now + 0.02, now)
      self.assertGreaterEqual(at - now, 0.01 - 1e-9)
      now = at

  def test_few_bundles_for_requests_out_of_step(self):
    poll_times = PollTimes()
    times = {poll_times.at(1 + 0.001 * i, 0.0) for i in range(1000)}
    self.assertLessEqual(len(times), 40)

  def test_a_time_that_has_passed_is_not_used(self):
    poll_times = PollTimes()
    poll_times.at(1.0, 0.0)
    self.assertEqual(poll_times.at(1.005, 1.002), 1.005)


if __name__ == '__main__':
  unittest.main()
