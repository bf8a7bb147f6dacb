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

"""Tests of how a runner takes the delay of a deferral."""

import math
import unittest

from hypothesis import given
from hypothesis import strategies as st

from apache_beam.ml.inference.iterative.durable.runner_delays import RunnerDelays


def takes_delays(delay):
  return delay


def cuts_delays(delay):
  return math.floor(delay)


def ignores_delays(delay):
  return 0.0


def _learn(delays, runner, wanted=0.4, polls=9, times=12):
  """Defers some times on a runner; the last delay."""
  delay = 0.0
  for _ in range(times):
    delay = delays.delay(wanted, polls)
    delays.resumed(delay, runner(delay) + 0.01)
  return delay


class RunnerDelaysTest(unittest.TestCase):
  @given(
      st.floats(0.0, 30.0),
      st.floats(0.0, 0.2),
      st.lists(st.floats(0.0, 5.0), max_size=20))
  def test_a_runner_that_takes_delays_is_asked_for_them(
      self, wanted, late, others):
    delays = RunnerDelays()
    for other in [*others, wanted]:
      asked = delays.delay(other, 3)
      self.assertEqual(asked, other)
      delays.resumed(asked, asked + late)
    self.assertTrue(delays.are_taken)

  def test_whole_seconds_are_asked_for_where_delays_are_cut(self):
    delays = RunnerDelays()
    _learn(delays, cuts_delays)
    self.assertFalse(delays.are_taken or delays.are_ignored)
    for wanted, polls, asked in (
        # Few polls are enough.
        (0.2, 9, 0.0), (2.1, 9, 2.5),
        # There are not so many. A runner takes off what its bundle takes.
        (0.8, 2, 1.5), (2.8, 2, 3.5), (0.2, -3, 1.5), (0.0, -3, 0.0)):
      self.assertEqual(delays.delay(wanted, polls), asked, (wanted, polls))

  def test_a_poll_that_takes_longer_allows_fewer(self):
    delays = RunnerDelays()
    _learn(delays, cuts_delays)
    self.assertEqual(delays.delay(0.4, 5), 0.0)
    for _ in range(30):
      delays.resumed(0.0, 0.02)
    # In less time it would not be polled again.
    self.assertEqual(delays.delay(0.6, 5), 1.5)
    for _ in range(30):
      delays.resumed(0.0, 0.3)
    self.assertEqual(delays.delay(0.6, 2.5), 0.0)

  def test_delays_that_are_ignored(self):
    delays = RunnerDelays()
    _learn(delays, ignores_delays, polls=1)
    self.assertTrue(delays.are_ignored)
    self.assertFalse(delays.are_taken)

  @given(
      st.lists(
          st.sampled_from([takes_delays, cuts_delays, ignores_delays]),
          min_size=1,
          max_size=6))
  def test_learns_anew(self, runners):
    # A bundle that is tried again resumes early, too.
    delays = RunnerDelays()
    for runner in runners:
      _learn(delays, runner, polls=1)
    self.assertEqual(delays.are_taken, runners[-1] is takes_delays)
    self.assertEqual(delays.are_ignored, runners[-1] is ignores_delays)


if __name__ == '__main__':
  unittest.main()
