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
import math
import random
import unittest
from unittest import mock

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from apache_beam.transforms.batching.policy import cost_model
from apache_beam.transforms.batching.policy.cost_model import PRIOR
from apache_beam.transforms.batching.policy.cost_model import CostModel
from apache_beam.transforms.batching.policy.least_cost import Cost

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
    model = CostModel()
    self.assertEqual(PRIOR, model.cost())
    self.assertEqual((0, 0), (model.largest_count, model.largest_size))

  def test_one_call_sets_the_scale_of_the_prior(self):
    cost = _learned(_TRUE, [(8, 100)])
    self.assertAlmostEqual(_TRUE.of(8, 100), cost.of(8, 100), 3)
    self.assertAlmostEqual(PRIOR.fixed, cost.fixed / cost.per_token, 3)

  def test_finds_the_cost_of_exact_timings(self):
    self.assertLess(_largest_error(_learned(_TRUE, _SHAPES * 8), _TRUE), 0.02)

  def test_calls_that_took_five_times_too_long(self):
    # Least squares without weights are off by 5 %.
    rng = random.Random(0)
    noise = lambda: (5 if rng.random() < 0.2 else 1) * rng.uniform(0.9, 1.1)
    cost = _learned(_TRUE, _SHAPES * 8, noise)
    self.assertLess(_largest_error(cost, _TRUE), 0.04)

  def test_one_slow_call_among_few(self):
    slow = iter([1.0] * 5 + [5.0] + [1.0] * 10)
    cost = _learned(_TRUE, _SHAPES, lambda: next(slow))
    self.assertLess(_largest_error(cost, _TRUE), 0.01)

  def test_calls_of_one_shape_are_priced_right(self):
    cost = _learned(_TRUE, [(32, 100)] * 50)
    self.assertLess(abs(cost.of(32, 100) / _TRUE.of(32, 100) - 1), 0.02)

  def test_calls_of_the_shortest_are_priced_right(self):
    for longest in (0, 1):
      model = CostModel()
      for _ in range(50):
        model.learn(32, longest, _TRUE.of(32, 1))
      self.assertAlmostEqual(model.cost().of(32, 1), _TRUE.of(32, 1), 4)

  def test_fits_anew_after_half_as_many_calls(self):
    model = CostModel()
    with mock.patch.object(cost_model, 'fit', wraps=cost_model.fit) as fit:
      fits = []
      for calls in (256, 512):
        for _ in range(calls):
          model.learn(8, 100, 0.1)
          model.cost()
        fits.append(fit.call_count)
    # After 1, 3, 7, ..., 255 calls; then after 129 each time.
    self.assertEqual(fits, [8, 11])

  def test_follows_a_model_that_changes(self):
    model = CostModel()
    for shape in _SHAPES * 8:
      model.learn(*shape, _TRUE.of(*shape))
    slower = Cost(fixed=0.1, per_token=1e-3, per_token_squared=0)
    for shape in _SHAPES * 16:
      model.learn(*shape, slower.of(*shape))
    self.assertLess(_largest_error(model.cost(), slower), 0.05)

  def test_recent_calls_outweigh_as_many_that_are_old(self):
    model, secs = CostModel(), 0.2
    for took in (secs, secs / 2):
      for _ in range(128):
        model.learn(8, 100, took)
    self.assertAlmostEqual(secs / 2, model.cost().of(8, 100), 2)

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

  def test_first_calls_of_a_shape_that_compile(self):
    # 2 s for each new shape, of which three of four are; and no new ones later.
    model, shapes = CostModel(), itertools.count()
    for i in range(200):
      longest = 20 + i % 40 if i % 4 == 0 else 100 + next(shapes)
      seen = i >= 160 and i % 4 == 0
      model.learn(8, longest, _TRUE.of(8, longest) + (0 if seen else 2))
    self.assertAlmostEqual(1.5, model.cost().fixed, 0)
    for i in range(300):
      model.learn(8, 20 + i % 10, _TRUE.of(8, 20 + i % 10))
    self.assertLess(
        abs(model.cost().of(8, 25) / _TRUE.of(8, 25) - 1), 0.1, model.cost())

  def test_first_calls_count_where_nothing_is_compiled(self):
    # Each shape once, as with the batches of a few texts.
    shapes = [(1 + i % 32, 8 + 5 * i) for i in range(64)]
    self.assertLess(_largest_error(_learned(_TRUE, shapes), _TRUE), 0.05)

  def test_calls_that_all_take_as_long_are_a_fixed_cost(self):
    # Batches of nearly one padded size tell nothing of tokens, but for the few
    # smaller ones at the start.
    model = CostModel()
    shapes = [(1, 20), (2, 20), (4, 20), (8, 40)]
    shapes += [(16, 55 + i % 10) for i in range(99)]
    for shape in shapes:
      model.learn(*shape, 2.0)
    self.assertGreater(model.cost().fixed, 1.8)

  def test_a_call_without_a_fixed_part_costs_what_beam_takes(self):
    cost = _learned(Cost(fixed=0, per_token=1e-3), _SHAPES * 8)
    self.assertAlmostEqual(1e-4, cost.fixed, 12)
    self.assertAlmostEqual(1e-3, cost.per_token, 6)

  def test_the_usual_number_of_elements(self):
    model = CostModel()
    self.assertEqual(1, model.usual_count)
    for expected in (2, 2.875):
      model.learn(9, 10, 1e-3)
      self.assertEqual(expected, model.usual_count)

  def test_is_settled_once_256_calls_are_remembered(self):
    model = CostModel()
    for _ in range(256):
      self.assertFalse(model.is_settled)
      model.learn(1, 10, 1e-3)
    self.assertTrue(model.is_settled)

  def test_fitted_is_the_cost_that_was_asked_for_last(self):
    model = CostModel()
    model.learn(8, 100, 0.1)
    self.assertEqual(PRIOR, model.fitted)
    self.assertEqual(model.cost(), model.fitted)
    self.assertNotEqual(PRIOR, model.fitted)

  def test_remembers_a_bounded_number_of_shapes(self):
    model = CostModel()
    for longest in range(5000):
      model.learn(1, longest, 1e-3)
    self.assertEqual(4096, len(model._shapes))


if __name__ == '__main__':
  unittest.main()
