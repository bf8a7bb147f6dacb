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
import random
import unittest

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from apache_beam.transforms.batching.policy.fixed_boundaries import FixedBoundaries
from apache_beam.transforms.batching.policy.flushing import Span
from apache_beam.transforms.batching.policy.least_cost import Cost
from apache_beam.transforms.batching.policy.priced_window import PricedWindow
from apache_beam.transforms.batching.policy.replay import Model
from apache_beam.transforms.batching.policy.replay import replay
from apache_beam.transforms.batching.policy.work_conserving import WorkConserving

_COST = Cost(200, 1)
_ARRIVALS = st.lists(
    st.tuples(st.integers(0, 2000), st.floats(0, 3)), max_size=80)
_POLICIES = st.one_of(
    st.builds(
        PricedWindow,
        st.builds(Cost, st.integers(0, 500), st.integers(0, 2)),
        st.integers(1, 9),
        st.none() | st.integers(1, 5000)),
    st.builds(
        WorkConserving,
        st.builds(Cost, st.integers(0, 500), st.integers(0, 2)),
        st.integers(1, 9),
        st.none() | st.integers(1, 5000),
        st.integers(1, 5)),
    st.builds(
        FixedBoundaries,
        st.lists(st.integers(1, 2000), unique=True).map(sorted),
        st.integers(1, 9),
        st.none() | st.integers(1, 5000),
        st.booleans()))


def _trace(count=3000, rate=100.0, seed=0):
  """Log-normal lengths, as those of prompts, and the times they arrive."""
  rng = random.Random(seed)
  lengths = [1 + int(rng.lognormvariate(5, 1.2)) for _ in range(count)]
  gaps = [rng.expovariate(rate) for _ in range(count)]
  return lengths, list(itertools.accumulate(gaps))


def _cost_ratio(replayed, cost):
  total = sum(cost.of(b.count, b.longest) for b in replayed.batches)
  return total / sum(b.real for b in replayed.batches)


class PoliciesTest(unittest.TestCase):
  @settings(deadline=None)
  @given(_ARRIVALS, _POLICIES, st.floats(0, 2), st.sampled_from([0, 1e-4]))
  def test_every_element_is_flushed_once_in_time_within_the_limits(
      self, arrivals, policy, max_wait, secs_per_cost):
    lengths = [length for length, _ in arrivals]
    times = sorted(time for _, time in arrivals)
    model = Model(_COST, secs_per_cost, secs_per_cost)
    replayed = replay(lengths, times, policy, max_wait, model)
    self.assertEqual(len(lengths), sum(b.count for b in replayed.batches))
    self.assertEqual(sum(lengths), sum(b.real for b in replayed.batches))
    for wait, latency in zip(replayed.waits, replayed.latencies):
      self.assertLessEqual(0, wait)
      self.assertLessEqual(wait, latency)
      if not secs_per_cost:
        self.assertLessEqual(wait, max_wait + 1e-9)
    largest = policy._max_padded_size
    for batch in replayed.batches:
      self.assertLessEqual(1, batch.count)
      self.assertLessEqual(batch.count, policy._max_batch_size)
      self.assertTrue(
          batch.count == 1 or largest is None or
          batch.count * batch.longest <= largest)

  @given(st.lists(st.integers(0, 2000), min_size=1), _POLICIES, st.data())
  def test_a_span_holds_the_element_that_it_is_asked_for(
      self, lengths, policy, data):
    lengths.sort()
    index = data.draw(st.integers(0, len(lengths) - 1))
    for span in (policy.due(lengths, index), policy.idle(lengths, index)):
      if span is not None:
        self.assertTrue(0 <= span.start <= index < span.end <= len(lengths))
    first = data.draw(st.integers(0, 1000))
    before = 0
    for span in policy.added(lengths, first, first + 1):
      self.assertTrue(before <= span.start < span.end <= len(lengths))
      before = span.end

  def test_numbers_that_are_no_limit(self):
    for make in (lambda **limits: PricedWindow(_COST, **limits),
                 lambda **limits: WorkConserving(_COST, **limits),
                 lambda **limits: FixedBoundaries([], **limits)):
      for name in ('max_batch_size', 'max_padded_size'):
        with self.assertRaisesRegex(ValueError, f'{name}=0'):
          make(**{'max_batch_size': 1, name: 0})


class PricedWindowTest(unittest.TestCase):
  def test_a_full_batch_without_padding_is_flushed_at_once(self):
    policy = PricedWindow(_COST, 4)
    self.assertEqual([Span(1, 5)],
                     policy.added([10, 100, 100, 100, 100, 300], 5, 6))
    self.assertEqual([], policy.added([10, 100, 100, 100, 150, 300], 5, 6))

  def test_several_full_batches_are_flushed_together(self):
    policy = PricedWindow(_COST, 2)
    lengths = [10, 10, 50, 100, 100, 101, 300, 300]
    spans = [Span(0, 2), Span(3, 5), Span(6, 8)]
    self.assertEqual(spans, policy.added(lengths, 8, 9))
    # Of many it looks for them periodically.
    self.assertEqual([], policy.added(lengths, 9, 10))
    self.assertEqual(spans, policy.added(lengths, 9, 11))
    self.assertEqual(spans[:1], policy.added(lengths[:3], 9, 10))

  def test_neighbours_join_where_that_costs_less_than_another_call(self):
    near, far = [100, 101, 102], [100, 500, 900]
    self.assertEqual(Span(0, 3), PricedWindow(_COST, 4).due(near, 1))
    self.assertEqual(Span(1, 2), PricedWindow(_COST, 4).due(far, 1))
    expensive = Cost(100_000, 1)
    self.assertEqual(Span(0, 3), PricedWindow(expensive, 4).due(far, 1))

  @settings(deadline=None)
  @given(
      st.lists(st.integers(0, 2000), min_size=1, max_size=20).map(sorted),
      st.builds(Cost, *[st.integers(0, 500)] + 3 * [st.integers(0, 2)]),
      st.integers(1, 9),
      st.none() | st.integers(1, 9000),
      st.data())
  def test_what_is_due_is_flushed_with_the_neighbours_that_gain_most(
      self, lengths, cost, most, padded, data):
    index = data.draw(st.integers(0, len(lengths) - 1))

    def gain(start, end):
      least = sum(cost.of_element(n) for n in lengths[start:end])
      least += (end - start) * cost.fixed / most
      return least - cost.of(end - start, lengths[end - 1])

    allowed = [(start, end) for start in range(index + 1)
               for end in range(index + 1, len(lengths) + 1)
               if end - start == 1 or end - start <= most and
               (not padded or (end - start) * lengths[end - 1] <= padded)]
    span = PricedWindow(cost, most, padded).due(lengths, index)
    self.assertIn(span, allowed)
    best = max(gain(*other) for other in allowed)
    self.assertAlmostEqual(best, gain(*span), delta=1e-9 * (1 + abs(best)))

  def test_lengths_whose_batches_cost_much_join_those_farther_away(self):
    policy, lengths = PricedWindow(Cost(1000, 1), 4), [100, 600]
    self.assertEqual(Span(0, 1), policy.due(lengths, 0))
    policy.flushed([600])
    self.assertEqual(Span(0, 2), policy.due(lengths, 0))
    # One full batch changes what is usual little, and many do.
    policy.flushed([600] * 4)
    self.assertEqual(Span(0, 2), policy.due(lengths, 0))
    for _ in range(100):
      policy.flushed([600] * 4)
    self.assertEqual(Span(0, 1), policy.due(lengths, 0))

  def test_costs_less_than_boundaries(self):
    lengths, times = _trace()
    for cost in (Cost(200, 1), Cost(2000, 1)):
      priced = replay(lengths, times, PricedWindow(cost, 32), 2)
      for boundaries in ([], [16, 32, 64, 128, 256, 512], [50, 150, 400, 1500]):
        fixed = replay(lengths, times, FixedBoundaries(boundaries, 32), 2)
        self.assertLess(_cost_ratio(priced, cost), _cost_ratio(fixed, cost))

  def test_prices_follow_lengths_that_change(self):
    lengths, times = _trace()
    lengths[1500:] = [10 * length for length in lengths[1500:]]
    late = slice(2000, None)
    start = [time - times[2000] for time in times[late]]
    fresh = replay(lengths[late], start, PricedWindow(_COST, 32), 2)
    whole = replay(lengths, times, PricedWindow(_COST, 32), 2)
    behind = [b for b in whole.batches][-len(fresh.batches):]
    cost = sum(_COST.of(b.count, b.longest) for b in behind)
    self.assertLess(
        cost / sum(b.real for b in behind), 1.02 * _cost_ratio(fresh, _COST))


class FixedBoundariesTest(unittest.TestCase):
  def test_a_bucket_is_flushed_when_it_is_full(self):
    policy = FixedBoundaries([10, 50], 3)
    self.assertEqual([], policy.added([9, 10, 49, 50], 0, 4))
    self.assertEqual([Span(1, 4)], policy.added([9, 10, 20, 49, 50], 4, 5))
    self.assertEqual([Span(0, 3), Span(3, 6), Span(7, 10)],
                     policy.added([1] * 7 + [60] * 4, 0, 11))

  def test_the_bucket_of_the_oldest_is_flushed_while_the_model_is_idle(self):
    lengths = [3, 9, 10, 49, 50]
    self.assertIsNone(FixedBoundaries([10, 50], 9).idle(lengths, 2))
    policy = FixedBoundaries([10, 50], 9, is_work_conserving=True)
    self.assertEqual(Span(2, 4), policy.idle(lengths, 2))

  def test_an_idle_model_waits_for_the_minimum(self):
    policy = FixedBoundaries([10], 9, None, True, min_batch_size=3)
    self.assertIsNone(policy.idle([3, 50], 0))
    self.assertEqual(Span(0, 2), policy.idle([3, 4, 50], 0))
    self.assertEqual(Span(0, 1), policy.due([3, 50], 0))

  def test_a_bucket_is_flushed_when_one_is_due(self):
    policy = FixedBoundaries([10, 50], 9)
    self.assertEqual(Span(0, 2), policy.due([3, 9, 10, 49, 50], 1))
    self.assertEqual(Span(2, 4), policy.due([3, 9, 10, 49, 50], 2))
    self.assertEqual(Span(4, 5), policy.due([3, 9, 10, 49, 50], 4))

  def test_padded_size_fills_a_bucket_too(self):
    policy = FixedBoundaries([], 9, max_padded_size=100)
    self.assertEqual([], policy.added([10, 40], 1, 2))
    self.assertEqual([Span(0, 2)], policy.added([10, 40, 45], 2, 3))

  def test_boundaries_that_do_not_ascend(self):
    for boundaries in ([50, 10], [10, 10]):
      with self.assertRaisesRegex(ValueError, 'must ascend'):
        FixedBoundaries(boundaries, 8)


class ReplayTest(unittest.TestCase):
  def test_by_hand(self):
    # The bucket of the first is flushed at 1.0, the rest at the end, 1.5.
    replayed = replay([5, 7, 90, 6], [0, 0.5, 0.7, 1.5],
                      FixedBoundaries([50], 32),
                      1)
    self.assertEqual([1, 0.5, 0.8, 0], [round(w, 9) for w in replayed.waits])
    self.assertEqual([(2, 7, 12), (1, 90, 90), (1, 6, 6)],
                     [(b.count, b.longest, b.real) for b in replayed.batches])

  def test_policy_is_not_changed(self):
    lengths, times = _trace(200)
    policy = PricedWindow(_COST, 8)
    first = replay(lengths, times, policy, 1)
    self.assertEqual(first, replay(lengths, times, policy, 1))

  def test_nothing_arrives(self):
    self.assertEqual([], replay([], [], PricedWindow(_COST, 8), 1).batches)

  def test_times_that_descend_or_are_missing(self):
    policy = FixedBoundaries([], 8)
    with self.assertRaisesRegex(ValueError, 'from 2 to 1 at index 2'):
      replay([1, 1, 1], [0, 2, 1], policy, 1)
    with self.assertRaisesRegex(ValueError, '3 lengths have 2 times'):
      replay([1, 1, 1], [0, 2], policy, 1)


if __name__ == '__main__':
  unittest.main()
