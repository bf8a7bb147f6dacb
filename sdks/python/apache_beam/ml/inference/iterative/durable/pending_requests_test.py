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

from apache_beam.ml.inference.iterative.durable.pending_requests import PendingRequests


class PendingRequestsTest(unittest.TestCase):
  def test_is_polled_when_the_request_before_it_has_ended(self):
    pending = PendingRequests()
    pending.ended(4.0)
    self.assertEqual([pending.add(str(i), 1.0) for i in range(3)], [0, 1, 2])
    self.assertAlmostEqual(pending.next_poll('0', 0.5, 1, 1.0), 4.5)
    self.assertAlmostEqual(pending.next_poll('2', 0.0, 2, 4.0), 8.0)
    # It should have ended, and has not.
    self.assertAlmostEqual(pending.next_poll('0', 0.5, 1, 4.5), 4.55)
    self.assertAlmostEqual(pending.next_poll('0', 0.5, 1, 5.5), 5.7)
    self.assertEqual([pending.remove('0'), pending.remove('0')], [1, 0])
    self.assertEqual(pending.add('2', 9.0), 1)
    self.assertEqual(pending.remove('2'), 2)

  def test_until_one_has_ended_a_request_may_be_short(self):
    pending = PendingRequests()
    pending.add('a', 0.0)
    self.assertAlmostEqual(pending.next_poll('a', 0.0, 1, 0.0, 0.7), 0.7)
    self.assertAlmostEqual(pending.next_poll('a', 0.0, 1, 0.0, 200.0), 2.0)
    self.assertAlmostEqual(pending.next_poll('a', 0.0, 1, 3.0), 3.6)
    pending.ended(2.5)
    self.assertAlmostEqual(pending.next_poll('a', 0.0, 1, 0.0, 200.0), 2.5)

  def test_one_at_another_worker_is_forgotten(self):
    pending = PendingRequests()
    pending.add('gone', 0.0)
    pending.sweep(1.0)
    self.assertEqual((pending.poll_at('gone'), pending.remove('gone')),
                     (0.0, 0))


if __name__ == '__main__':
  unittest.main()
