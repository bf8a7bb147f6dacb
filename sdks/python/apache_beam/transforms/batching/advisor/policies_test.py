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
from hypothesis import settings
from hypothesis import strategies as st

from apache_beam.transforms.batching.advisor import policies
from apache_beam.transforms.batching.policy.least_cost import Cost

_LENGTHS = [5, 100, 7, 90]
_TIMES = [0, 0.5, 0.75, 9]


class PoliciesTest(unittest.TestCase):
  @settings(deadline=None, max_examples=30)
  @given(
      st.lists(
          st.tuples(st.integers(1, 500), st.floats(0, 5)),
          min_size=1,
          max_size=40),
      st.integers(0, 300),
      st.sampled_from([0, 0.5, 2]))
  def test_every_policy_accounts_for_all_elements(self, arrivals, fixed, load):
    lengths = [length for length, _ in arrivals]
    times = sorted(time for _, time in arrivals)
    question = policies.Question(Cost(fixed, 1), 4, load=load)
    bundles = policies.within_bundles(lengths, question, 2)
    waits, _ = policies.under_a_wait(lengths, times, question, 1)
    bound = waits.pop('offline_bound', None)
    for figures in (*bundles.values(), *waits.values()):
      self.assertAlmostEqual(
          len(lengths), figures.batches * figures.mean_batch_size)
      self.assertLessEqual(1, figures.padding_ratio)
      self.assertLessEqual(figures.padding_ratio, figures.cost_ratio)
    for figures in waits.values():
      self.assertLessEqual(figures.wait_p95, figures.latency_p95)
      if load == 0:
        self.assertLessEqual(bound.cost_ratio, figures.cost_ratio * (1 + 1e-9))
        self.assertLessEqual(figures.wait_max, 1 + 1e-9)
    if bound:
      ours = waits['smart_cost'].cost_ratio
      self.assertLessEqual(bound.cost_ratio, ours * (1 + 1e-9))

  def test_within_bundles_by_hand(self):
    question = policies.Question(Cost(9, 1), 2)
    found = policies.within_bundles(_LENGTHS, question, lookahead=2)
    # [5, 100] [7, 90]; [5, 7] [90, 100]; [5, 7] [90] [100], as 10 more for the
    # padding of [90, 100] cost more than a call of 9.
    for name, padded, batches in (('arrival', 380, 2), ('sorted', 214, 2),
                                  ('smart', 204, 3)):
      figures = found[name]
      self.assertEqual((padded / 202, batches),
                       (figures.padding_ratio, figures.batches))
      self.assertEqual((padded + 9 * batches) / 202, figures.cost_ratio)
      self.assertEqual(4 / batches, figures.mean_batch_size)
      self.assertIsNone(figures.wait_p50)

  def test_under_a_wait_by_hand(self):
    question = policies.Question(Cost(10, 1), 2)
    found, best = policies.under_a_wait(_LENGTHS, _TIMES, question, 1)
    # [5, 100] is full at 0.5; 7 waits for a second, 90 not at all.
    arrival = found['arrival']
    self.assertEqual((297 / 202, 3, 0.25, 1),
                     (
                         arrival.padding_ratio,
                         arrival.batches,
                         arrival.wait_p50,
                         arrival.wait_max))
    # [5, 7] in one bucket.
    self.assertEqual(204 / 202, found['beam_default'].padding_ratio)
    self.assertRegex(
        best, '^(quantile|geometric|power of two), [0-9]+ buckets$')
    # A model that takes no time is never busy.
    self.assertEqual((4, 0), (found['smart'].batches, found['smart'].wait_max))

  def test_an_overloaded_model_has_no_bound(self):
    for load, has_bound in ((9, False), (0, True)):
      question = policies.Question(Cost(10, 1), 2, load=load)
      found, _ = policies.under_a_wait(_LENGTHS, _TIMES, question, 0.1)
      self.assertEqual(has_bound, 'offline_bound' in found)


if __name__ == '__main__':
  unittest.main()
