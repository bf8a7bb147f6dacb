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

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from apache_beam.transforms.batching.policy.flushing import Span
from apache_beam.transforms.batching.policy.least_cost import Cost
from apache_beam.transforms.batching.policy.priced_window import PricedWindow
from apache_beam.transforms.batching.policy.replay import Model
from apache_beam.transforms.batching.policy.replay import replay
from apache_beam.transforms.batching.policy.work_conserving import Backlog
from apache_beam.transforms.batching.policy.work_conserving import WorkConserving

# Seconds: MiniLM-L6 on 2 cores, and an accelerator.
_MODELS = {'cpu': Cost(0.008, 0.00014), 'gpu': Cost(0.020, 0.000004)}
_WAIT = 2.0


def _arrivals(load, cost, count=1500):
  """Log-normal lengths, and times at which they load a model so much."""
  rng = random.Random(1)
  lengths = [
      int(min(512, max(4, rng.lognormvariate(4.3, 1)))) for _ in range(count)
  ]
  mean = sum(lengths) / count
  capacity = 1 / (cost.fixed / 16 + 1.03 * cost.per_token * mean)
  gaps = [rng.expovariate(load * capacity) for _ in range(count)]
  return lengths, list(itertools.accumulate(gaps)), Model(cost, 1.0, 1e-4)


def _percentile(values, part):
  return sorted(values)[math.ceil(part * len(values)) - 1]


class WorkConservingTest(unittest.TestCase):
  def test_the_batch_of_the_oldest_is_flushed(self):
    lengths = [9, 10, 11, 500, 510]
    policy = WorkConserving(Cost(200, 1), 4)
    self.assertEqual(Span(0, 3), policy.idle(lengths, 1))
    self.assertEqual(Span(3, 5), policy.idle(lengths, 4))
    self.assertEqual([], policy.added(lengths, 4, 5))
    # One that costs so much more than its tokens takes all that may be in it.
    expensive = WorkConserving(Cost(100_000, 1), 5)
    self.assertEqual(Span(0, 5), expensive.idle(lengths, 1))

  def test_fewer_than_the_minimum_are_flushed_when_one_is_due(self):
    policy = WorkConserving(Cost(200, 1), 4, min_batch_size=3)
    self.assertIsNone(policy.idle([5, 6], 0))
    self.assertEqual(Span(0, 2), policy.due([5, 6], 0))
    self.assertEqual(Span(0, 3), policy.idle([5, 6, 7], 0))

  def test_of_many_that_are_buffered_the_neighbours_are_cut(self):
    lengths = sorted(range(1, 3000))
    span = WorkConserving(Cost(200, 1), 32).idle(lengths, 1500)
    self.assertTrue(1 < span.end - span.start <= 32)

  @settings(deadline=None)
  @given(st.integers(1, 30), st.sampled_from(list(_MODELS)), st.integers(0, 9))
  def test_the_model_is_never_idle_while_an_element_is_buffered(
      self, load, name, seed):
    rng = random.Random(seed)
    cost = _MODELS[name]
    times = sorted(rng.random() for _ in range(4 * load))
    lengths = [rng.randrange(1, 500) for _ in times]
    replayed = replay(
        lengths, times, WorkConserving(cost, 8), _WAIT, Model(cost, 1.0))
    busy = sum(cost.of(b.count, b.longest) for b in replayed.batches)
    # An element that is alone in the system is served at once.
    served, idle = 0.0, 0.0
    for arrived, latency in sorted(zip(times, replayed.latencies)):
      idle += max(0.0, arrived - served)
      served = max(served, arrived + latency)
    self.assertAlmostEqual(times[0] + replayed.secs, busy + idle)

  def test_low_load_waits_for_nothing_and_high_load_makes_batches(self):
    for name, cost in _MODELS.items():
      sizes = []
      for load in (0.1, 0.95):
        lengths, times, model = _arrivals(load, cost)
        replayed = replay(
            lengths, times, WorkConserving(cost, 32), _WAIT, model)
        sizes.append(len(lengths) / len(replayed.batches))
        if load < 0.5:
          self.assertLess(
              _percentile(replayed.waits, 0.5), 2 * cost.of(1, 100), name)
      self.assertGreater(sizes[1], 2.5 * sizes[0], (name, sizes))

  def test_no_slower_than_as_full_as_it_may_be(self):
    for name, cost in _MODELS.items():
      for load in (0.2, 0.5, 0.8, 0.95):
        lengths, times, model = _arrivals(load, cost)
        idle, full = (
            replay(lengths, times, policy(cost, 32), _WAIT, model)
            for policy in (WorkConserving, PricedWindow))
        message = f'{name}, load {load}'
        self.assertLess(idle.secs, 1.01 * full.secs, message)
        for part in (0.5, 0.95):
          self.assertLess(
              _percentile(idle.latencies, part),
              _percentile(full.latencies, part),
              message)

  def test_under_overload_all_that_is_buffered_is_flushed_the_shortest_first(
      self):
    # The first takes 10 s; the others wait for more than twice a second, and
    # are flushed before the one that comes meanwhile.
    cost = Cost(0, 1)
    replayed = replay([10, 4, 1, 2, 3], [0, 1, 2, 3, 11],
                      WorkConserving(cost, 1),
                      1,
                      Model(cost, 1.0))
    self.assertEqual([10, 1, 2, 4, 3], [b.longest for b in replayed.batches])

  @settings(deadline=None)
  @given(st.integers(1, 200), st.integers(1, 8), st.integers(0, 9))
  def test_overloaded_flushes_each_element_once(self, count, size, seed):
    rng = random.Random(seed)
    lengths = sorted(rng.randrange(1, 500) for _ in range(count))
    left, flushed = list(lengths), []
    for start, end in WorkConserving(Cost(50, 1), size).overloaded(lengths):
      self.assertTrue(0 < end - start <= size)
      flushed += left[start:end]
      del left[start:end]
    self.assertEqual((lengths, []), (flushed, left))

  def test_under_overload_few_wait_as_long_as_the_longest(self):
    lengths, times, model = _arrivals(1.2, _MODELS['cpu'], count=3000)
    ours, full = (
        replay(lengths, times, policy(model.cost, 32), _WAIT, model)
        for policy in (WorkConserving, PricedWindow))
    self.assertLess(
        _percentile(ours.latencies, 0.95),
        0.8 * _percentile(full.latencies, 0.95))

  def test_under_overload_no_element_is_starved(self):
    for name, cost in _MODELS.items():
      lengths, times, model = _arrivals(1.2, cost)
      replayed = replay(lengths, times, WorkConserving(cost, 32), _WAIT, model)
      late = replayed.secs - (times[-1] - times[0])
      # Not much longer than the worker is behind at the end.
      self.assertLess(max(replayed.waits), 2 * late + 1, name)

  def test_calls_after_a_quiet_time_are_as_full_as_before_it(self):
    # A lone element's share of its call was once taken for the usual one.
    lengths, times, model = _arrivals(0.9, _MODELS['gpu'])
    quiet = [float(i) for i in range(200)]
    both = quiet + [200 + time for time in times]
    replayed = replay([50] * 200 + lengths,
                      both,
                      WorkConserving(model.cost, 32),
                      _WAIT,
                      model)
    self.assertLess(len(replayed.batches) - 200, len(lengths) / 5)


class BacklogTest(unittest.TestCase):
  def _after_a_call(self, secs=0.1, max_wait=2):
    """A backlog after a call that ended at 1 s."""
    backlog = Backlog(max_wait * 1e6)
    backlog.resumed(1e6 - secs * 1e6, False)
    backlog.called(ended=1e6, took=secs * 1e6)
    return backlog

  def test_what_arrived_during_a_call_is_added_first(self):
    self.assertTrue(Backlog(2e6).is_added(arrived=5, now=5, timer=0))
    backlog = self._after_a_call()
    self.assertFalse(backlog.is_added(arrived=950_000, now=1_001_000, timer=0))
    # It arrived after the call, so all that queued during it is there.
    self.assertTrue(backlog.is_added(arrived=1_000_500, now=1_002_000, timer=0))
    self.assertEqual(backlog.check_after(), 100_000 // 8)

  def test_it_is_given_as_much_time_as_the_call_took(self):
    backlog = self._after_a_call()
    self.assertFalse(backlog.is_added(arrived=950_000, now=1_099_000, timer=0))
    self.assertTrue(backlog.is_added(arrived=950_000, now=1_100_000, timer=0))

  def test_and_no_more_than_parts_of_the_longest_wait_and_of_the_call(self):
    backlog = self._after_a_call(secs=0.4)
    self.assertFalse(backlog.is_added(arrived=950_000, now=1_249_000, timer=0))
    self.assertTrue(backlog.is_added(arrived=950_000, now=1_250_000, timer=0))
    self.assertEqual(backlog.check_after(), 50_000)
    backlog = self._after_a_call(secs=60)
    self.assertFalse(backlog.is_added(arrived=950_000, now=30e6, timer=0))
    self.assertTrue(backlog.is_added(arrived=950_000, now=31e6, timer=0))
    self.assertEqual(backlog.check_after(), 250_000)

  def test_all_calls_of_a_turn_count(self):
    backlog = Backlog(2e6)
    backlog.resumed(0, False)
    for ended in (200_000, 400_000, 600_000):
      backlog.called(ended, took=150_000)
    self.assertFalse(backlog.is_added(arrived=1, now=890_000, timer=0))
    self.assertTrue(backlog.is_added(arrived=1, now=900_000, timer=0))

  def test_a_timer_that_is_set_decides(self):
    backlog = self._after_a_call()
    late = dict(arrived=1_000_500, timer=1_012_500)
    self.assertFalse(backlog.is_added(now=1_013_000, **late))
    self.assertFalse(backlog.is_added(now=1_262_000, **late))
    # The runner does not fire it.
    self.assertTrue(backlog.is_added(now=1_262_500, **late))
    backlog = self._after_a_call(secs=4)
    late = dict(arrived=950_000, timer=1_250_000)
    self.assertFalse(backlog.is_added(now=3_249_000, **late))
    self.assertTrue(backlog.is_added(now=3_250_000, **late))

  def test_batches_are_flushed_for_long_where_a_turn_takes_long(self):
    backlog = self._after_a_call()
    self.assertEqual(0, backlog.time_for_calls())
    # Nothing was left to be done.
    backlog.resumed(1_900_000, False)
    self.assertEqual(0, backlog.time_for_calls())
    for _ in range(30):
      backlog.called(ended=2_000_000, took=10)
      backlog.resumed(2_020_000, True)
    self.assertAlmostEqual(100 * 20_000, backlog.time_for_calls(), delta=100)

  def test_a_clock_that_was_set_back(self):
    backlog = self._after_a_call()
    self.assertTrue(backlog.is_added(arrived=500_000, now=600_000, timer=0))
    backlog.resumed(600_000, True)
    self.assertEqual(0, backlog.time_for_calls())


if __name__ == '__main__':
  unittest.main()
