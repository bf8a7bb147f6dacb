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

import concurrent.futures
import math
import random
import unittest

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from apache_beam.transforms.batching.cost_model import PRIOR
from apache_beam.transforms.batching.cost_model import CostModel
from apache_beam.transforms.batching.cost_model import shared_cost_model
from apache_beam.transforms.batching.least_cost import Cost

_TRUE = Cost(fixed=8e-3, per_token=2.2e-4, per_token_squared=6e-8)
_SHAPES = [(n, length) for n in (1, 4, 16, 32) for length in (8, 64, 200, 512)]


def _learned(true, shapes, noise=lambda: 1.0):
  model = CostModel()
  for count, longest in shapes:
    model.learn(count, longest, true.of(count, longest) * noise())
  return model.cost()


def _largest_error(cost, true):
  return max(abs(cost.of(*shape) / true.of(*shape) - 1) for shape in _SHAPES)


class CostModelTest(unittest.TestCase):
  def test_prior_before_any_call(self):
    self.assertEqual(PRIOR, CostModel().cost())

  def test_one_call_sets_the_scale_of_the_prior(self):
    cost = _learned(_TRUE, [(8, 100)])
    self.assertAlmostEqual(_TRUE.of(8, 100), cost.of(8, 100), 3)
    self.assertAlmostEqual(PRIOR.fixed, cost.fixed / cost.per_token, 3)

  def test_finds_the_cost_of_exact_timings(self):
    self.assertLess(_largest_error(_learned(_TRUE, _SHAPES * 8), _TRUE), 0.02)

  def test_calls_that_took_five_times_too_long(self):
    rng = random.Random(0)
    noise = lambda: (5 if rng.random() < 0.1 else 1) * rng.uniform(0.9, 1.1)
    cost = _learned(_TRUE, _SHAPES * 8, noise)
    self.assertLess(_largest_error(cost, _TRUE), 0.2)

  def test_one_slow_call_among_few(self):
    slow = iter([1.0] * 5 + [5.0] + [1.0] * 10)
    cost = _learned(_TRUE, _SHAPES, lambda: next(slow))
    self.assertLess(_largest_error(cost, _TRUE), 0.3)

  def test_calls_of_one_shape_are_priced_right(self):
    cost = _learned(_TRUE, [(32, 100)] * 50)
    self.assertLess(abs(cost.of(32, 100) / _TRUE.of(32, 100) - 1), 0.02)

  def test_follows_a_model_that_changes(self):
    model = CostModel()
    for shape in _SHAPES * 8:
      model.learn(*shape, _TRUE.of(*shape))
    slower = Cost(fixed=0.1, per_token=1e-3, per_token_squared=0)
    for shape in _SHAPES * 16:
      model.learn(*shape, slower.of(*shape))
    self.assertLess(_largest_error(model.cost(), slower), 0.05)

  def test_times_that_no_call_can_take_are_left_out(self):
    model = CostModel()
    for seconds in (0, -1, math.inf, math.nan):
      model.learn(8, 100, seconds)
    model.learn(0, 100, 1)
    self.assertEqual(PRIOR, model.cost())
    self.assertFalse(model.is_learned)
    # But the batches were run.
    self.assertEqual(8, model.largest_count)
    self.assertEqual(800, model.largest_size)

  def test_the_largest_batch_so_far_is_learned_at_once(self):
    model = CostModel()
    for _ in range(12):
      model.learn(2, 512, _TRUE.of(2, 512))
    model.cost()
    model.learn(4, 512, 3 * _TRUE.of(4, 512))
    cost = model.cost()
    self.assertGreater(cost.of(4, 512) / cost.of(2, 512), 2.2)

  @given(
      st.lists(
          st.tuples(
              st.integers(1, 64), st.integers(0, 10000), st.floats(1e-6, 1e3)),
          max_size=30))
  @settings(deadline=None)
  def test_parts_are_finite_and_not_negative(self, calls):
    model = CostModel()
    for call in calls:
      model.learn(*call)
    # Cost itself refuses anything else.
    self.assertGreater(model.cost().of(1, 1), 0)

  def test_one_model_for_a_key_in_every_thread(self):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
      models = set(pool.map(shared_cost_model, ['key of this test'] * 64))
    self.assertEqual(1, len(models))
    self.assertIsNot(models.pop(), shared_cost_model('another key'))


if __name__ == '__main__':
  unittest.main()
