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

import collections
import itertools
import random
import unittest

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from apache_beam.testing.inference.batching_runner import WAIT
from apache_beam.testing.inference.batching_runner import WINDOW
from apache_beam.testing.inference.batching_runner import FakeRunner
from apache_beam.transforms import window
from apache_beam.transforms.batching import buffer_state
from apache_beam.transforms.batching.in_bundle import LengthBatchingDoFn
from apache_beam.transforms.batching.options import BatchingOptions
from apache_beam.transforms.batching.policy.least_cost import Cost
from apache_beam.transforms.batching.policy.memory_limit import report_out_of_memory
from apache_beam.utils.timestamp import Timestamp

_FULL = BatchingOptions(optimize_for='cost')
_COST = BatchingOptions(cost=Cost(fixed=20, per_token=1), optimize_for='cost')
_steps = st.lists(
    st.one_of(
        # An element arrives: its length, its event time, and how long ago it
        # was measured, by a clock that may be ahead.
        st.tuples(
            st.just('arrive'),
            st.integers(0, 50),
            st.integers(0, 999),
            st.sampled_from([0, 0, 3, 8, 2 * WAIT, -60])),
        st.tuples(st.just('pass'), st.integers(0, 12)),
        # The timer fires early, or again, with whatever event time.
        st.tuples(st.just('ghost'), st.integers(0, 2000))),
    max_size=60)


class _SmallMemory(FakeRunner):
  """The model reports batches of a padded size above 200."""
  def _collect(self, batches):
    super()._collect(self._reported(batches))

  def _reported(self, batches):
    for batch in batches or ():
      if len(batch.value) * max(length for _, length in batch.value) > 200:
        report_out_of_memory(batch.value)
      yield batch


class StatefulDoFnTest(unittest.TestCase):
  @settings(deadline=None)
  @given(
      _steps,
      st.sampled_from(['latency', 'cost']),
      st.sampled_from([(), (10, 30)]),
      st.booleans())
  def test_whatever_happens(self, steps, optimize_for, boundaries, small):
    options = BatchingOptions(
        max_padded_size=100,
        optimize_for=optimize_for,
        max_buffered_elements=6 if small else 99)
    runner = FakeRunner(
        options, max_batch_size=4, bucket_boundaries=list(boundaries) or None)
    arrived = {}
    for step in steps:
      if step[0] == 'arrive':
        element, ago = (len(arrived), step[1]), step[3]
        due = runner.now + max(0, WAIT - max(0, ago))
        arrived[element] = due, step[2]
        runner.arrive(element, step[2], ago)
      elif step[0] == 'pass':
        runner.pass_time(step[1])
      else:
        runner.fire_deadline(step[1])
      waiting = len(arrived) - sum(len(batch) for batch, _, _ in runner.left)
      self.assertLess(waiting, options.max_buffered_elements)
      self.assertEqual(runner.is_empty(), not waiting)
    runner.end_window()
    self.assertTrue(runner.is_empty())
    may_gather = any(step[0] == 'arrive' and step[3] > WAIT for step in steps)
    self._check_batches(runner, arrived, boundaries, may_gather * WAIT / 8)

  def _check_batches(self, runner, arrived, boundaries, gathering):
    counts = collections.Counter(
        e for batch, _, _ in runner.left for e in batch)
    self.assertEqual(counts, collections.Counter(arrived.keys()))
    for batch, timestamp, left in runner.left:
      lengths = [length for _, length in batch]
      self.assertEqual(lengths, sorted(lengths))
      self.assertTrue(1 <= len(batch) <= 4)
      self.assertTrue(len(batch) == 1 or lengths[-1] * len(batch) <= 100)
      for edge in boundaries:
        self.assertFalse(lengths[0] < edge <= lengths[-1])
      for element in batch:
        due, event_time = arrived[element]
        self.assertLessEqual(left, due + gathering)
        self.assertGreaterEqual(timestamp, Timestamp(event_time))
      self.assertLessEqual(timestamp, WINDOW.max_timestamp())

  def test_few_elements_are_read_for_each_that_leaves(self):
    lengths = random.Random(0)
    # As many as may wait, and as many as come within a deadline.
    for arrivals_per_sec in (10**6, 54):
      options = BatchingOptions(cost=Cost(200, 1), optimize_for='cost')
      runner = FakeRunner(options, max_batch_size=32)
      for i in range(5000):
        runner.arrive((i, int(lengths.lognormvariate(6.5, 1.1))), 5)
        runner.pass_time(1 / arrivals_per_sec)
      left = sum(len(batch) for batch, _, _ in runner.left)
      self.assertGreater(left, 2500)
      reads = sum(bag.reads for bag in runner.bags) / left
      self.assertLess(reads, 8, arrivals_per_sec)

  def test_neighbours_leave_with_what_is_due(self):
    runner = FakeRunner(max_batch_size=4, options=_COST)
    for element in ((0, 10), (1, 500), (2, 11)):
      runner.arrive(element, 5)
    runner.pass_time(WAIT)
    self.assertEqual([batch for batch, _, _ in runner.left],
                     [[(0, 10), (2, 11)], [(1, 500)]])

  def test_the_end_of_a_window_lets_the_shortest_leave_first(self):
    runner = FakeRunner(max_batch_size=2, options=_COST)
    for i, length in enumerate((900, 10, 500, 480, 11, 12)):
      runner.arrive((i, length), 5)
    runner.end_window()
    longest = [batch[-1][1] for batch, _, _ in runner.left]
    self.assertEqual(longest, sorted(longest))
    self.assertEqual([500, 900], longest[-2:])

  def test_rising_lengths_make_as_few_batches_as_within_a_bundle(self):
    for cost in (Cost(8e-3, 1.4e-4), Cost(20e-3, 4e-6)):
      lengths = range(10, 90)
      runner = FakeRunner(_FULL, max_batch_size=32)
      runner.cost = cost
      for i in lengths:
        runner.arrive((i, i), 5)
      runner.end_window()
      do_fn = LengthBatchingDoFn(
          lambda length: length, [(None, 32)], clock=lambda: runner.now)
      do_fn.setup()
      do_fn.start_bundle()
      emitted = 0
      for length in [*lengths, None]:
        for batch in (do_fn.process(length, window.GlobalWindow()) or
                      () if length else do_fn.finish_bundle()):
          runner.now += cost.of(len(batch.value), max(batch.value))
          emitted += 1
      self.assertLessEqual(len(runner.left), emitted)
      self.assertLess(emitted, 25)

  def test_batches_after_one_that_does_not_fit_in_memory_are_smaller(self):
    runner = _SmallMemory(max_batch_size=4, options=_COST)
    for i in range(8):
      runner.arrive((i, 100), 5)
    runner.end_window()
    self.assertEqual([4, 2, 2], [len(batch) for batch, _, _ in runner.left])

  def test_a_deadline_that_fires_early_holds_the_watermark_again(self):
    # It was set for elements that are gone, the last of which was later.
    runner = FakeRunner(max_batch_size=4, options=_COST)
    runner.arrive((0, 10), 5)
    runner.fire_deadline(timestamp=50)
    self.assertEqual(100 + WAIT, runner.deadline.at)
    runner.pass_time(WAIT)
    # The hold is now that of this firing, so nothing before it is in time.
    self.assertEqual([Timestamp(50)], [at for _, at, _ in runner.left])

  def test_without_a_deadline_elements_wait_for_the_end_of_the_window(self):
    runner = FakeRunner(wait=0, max_batch_size=4, options=_COST)
    runner.arrive((0, 10), 50)
    runner.pass_time(3600)
    self.assertIsNone(runner.deadline.at)
    self.assertEqual(runner.left, [])
    # The watermark is held by nobody, so nothing may be behind what comes.
    for i in range(1, 4):
      runner.arrive((i, 10), 60)
    (batch, timestamp, _), = runner.left
    self.assertEqual((len(batch), timestamp), (4, Timestamp(60)))
    runner.arrive((4, 10), 5)
    runner.end_window()
    self.assertEqual(len(runner.left), 2)
    self.assertTrue(runner.is_empty())

  def test_what_is_written_does_not_grow_with_the_buffer(self):
    written = []
    for count in (100, 2000):
      runner = FakeRunner(
          BatchingOptions(max_buffered_elements=4000, cost=Cost(200, 1)),
          wait=0,
          max_batch_size=32)
      for i in range(count):
        runner.arrive((i, 100 + 50 * i), 5)
      before = runner.written
      for i in range(count, count + 100):
        runner.arrive((i, 100 + 50 * (i % count)), 5)
      written.append((runner.written - before) / 100)
    self.assertLess(written[1], 1.5 * written[0])
    self.assertLess(written[1], 1024)

  def test_another_worker_takes_over_at_any_time(self):
    # Its memory knows nothing of the buffer, or an older state of it.
    rng = random.Random(0)
    for keeps in (0.0, 0.5):
      runner = FakeRunner(_COST, max_batch_size=4)
      for i in range(300):
        if rng.random() >= keeps:
          buffer_state._CACHE._kept.clear()
        runner.arrive((i, rng.randrange(100)), 5)
        runner.pass_time(rng.random())
      runner.end_window()
      emitted = [element for batch, _, _ in runner.left for element in batch]
      self.assertCountEqual([i for i, _ in emitted], range(300))
      self.assertTrue(runner.is_empty())

  def test_a_batch_is_never_behind_the_hold(self):
    runner = FakeRunner(_FULL, max_batch_size=4)
    runner.arrive((0, 10), 50)
    runner.arrive((1, 900), 20)
    runner.pass_time(WAIT)
    self.assertEqual([timestamp for _, timestamp, _ in runner.left],
                     [Timestamp(50)] * 2)

  def test_a_batch_takes_no_longer_than_its_target(self):
    runner = FakeRunner(_FULL, max_batch_size=64, target_batch_duration_secs=1)
    # So ten elements take a second.
    runner.cost = Cost(0, 0.01)
    for i in range(600):
      runner.arrive((i, 10), 5)
    sizes = [len(batch) for batch, _, _ in runner.left]
    self.assertGreater(len(sizes), 20)
    self.assertGreater(max(sizes[-10:]), 4)
    self.assertLess(max(sizes[-10:]), 15)

  def test_an_arrival_finds_what_is_due_where_no_timer_fires(self):
    runner = FakeRunner(_FULL, max_batch_size=4)
    runner.arrive((0, 10), 5)
    runner.now += WAIT
    runner.arrive((1, 900), 5)
    self.assertEqual([batch for batch, _, _ in runner.left], [[(0, 10)]])

  def test_what_comes_late_waits_for_what_comes_with_it(self):
    runner = FakeRunner(max_batch_size=4, options=_COST)
    # A runner that is behind brings a bundle of several chunks.
    for i, length in enumerate((10, 500, 11, 499)):
      runner.arrive((i, length), 5, late=2 * WAIT)
    self.assertEqual([], runner.left)
    runner.pass_time(WAIT / 8)
    self.assertEqual([batch for batch, _, _ in runner.left],
                     [[(0, 10), (2, 11)], [(3, 499), (1, 500)]])
    self.assertTrue(runner.is_empty())

  def test_what_comes_late_does_not_put_off_what_is_due(self):
    runner = FakeRunner(_FULL, max_batch_size=4)
    runner.arrive((0, 10), 5)
    runner.now += WAIT
    # No timer has fired.
    runner.arrive((1, 900), 5, late=2 * WAIT)
    self.assertEqual([batch for batch, _, _ in runner.left],
                     [[(1, 900)], [(0, 10)]])

  def test_what_was_measured_before_what_waits_is_due_before_it(self):
    for ago, waits in ((8, WAIT - 8), (2 * WAIT, WAIT / 8)):
      runner = FakeRunner(_FULL, max_batch_size=4)
      runner.arrive((0, 10), 50)
      runner.now += 1
      # From a bundle that took long, and on to another timestamp.
      runner.arrive((1, 900), 5, late=ago)
      runner.pass_time(2 * WAIT)
      self.assertEqual([(batch, left) for batch, _, left in runner.left],
                       [([(1, 900)], 101 + waits), ([(0, 10)], 100 + WAIT)])

  def test_a_clock_that_is_ahead(self):
    runner = FakeRunner(_FULL, max_batch_size=4)
    runner.arrive((0, 10), 5, late=-60)
    runner.pass_time(WAIT)
    self.assertEqual([batch for batch, _, _ in runner.left], [[(0, 10)]])

  def test_what_is_late_gathers_once(self):
    runner = FakeRunner(_FULL, max_batch_size=4)
    for i in range(16):
      runner.arrive((i, 10), 5, late=2 * WAIT)
      runner.now += WAIT / 16
    waits = [
        left - 100 - i * WAIT / 16 for batch, _, left in runner.left
        for i, _ in batch
    ]
    self.assertGreater(len(waits), 8)
    self.assertLessEqual(max(waits), WAIT / 8)

  def test_a_clock_that_goes_backwards_while_late_elements_gather(self):
    runner = FakeRunner(_FULL, max_batch_size=4)
    runner.arrive((0, 10), 5, late=2 * WAIT)
    runner.now -= 3600
    runner.fire_deadline()
    self.assertEqual([batch for batch, _, _ in runner.left], [[(0, 10)]])

  def test_a_clock_that_goes_backwards(self):
    runner = FakeRunner(_FULL, max_batch_size=4)
    runner.arrive((0, 10), 5)
    runner.now -= 3600
    runner.fire_deadline()
    self.assertEqual([batch for batch, _, _ in runner.left], [[(0, 10)]])


class WorkConservingTest(unittest.TestCase):
  def _batches(self, runner):
    return [batch for batch, _, _ in runner.left]

  def test_an_idle_model_is_given_what_arrives(self):
    runner = FakeRunner(max_batch_size=4)
    for i in range(5):
      runner.arrive((i, 10 * i), 5)
      runner.now += 1
    self.assertEqual(self._batches(runner), [[(i, 10 * i)] for i in range(5)])
    # Neither state nor timers were needed.
    self.assertEqual(runner.written, 0)
    self.assertIsNone(runner.deadline.at)
    self.assertIsNone(runner.window_end.at)

  def test_all_of_a_group_is_added_first(self):
    runner = FakeRunner(BatchingOptions(cost=Cost(20, 1)), max_batch_size=4)
    runner.cost = Cost(0.1, 0)
    runner.arrive_together([((0, 10), 5), ((1, 500), 5), ((2, 11), 5)])
    self.assertEqual(self._batches(runner), [[(0, 10), (2, 11)]])
    runner.pass_time(1)
    self.assertEqual(self._batches(runner)[1:], [[(1, 500)]])
    self.assertTrue(runner.is_empty())

  def test_the_first_of_what_queued_during_a_call_is_not_flushed_alone(self):
    runner = FakeRunner(BatchingOptions(cost=Cost(99, 1)), max_batch_size=8)
    runner.cost = Cost(1, 0)
    runner.arrive((0, 10), 5)
    for i in range(1, 4):
      runner.arrive((i, 10), 5, late=1 - i / 4)
      runner.now += 0.01
    runner.arrive((4, 10), 5)
    self.assertEqual(len(runner.left), 1)
    # The runner has no more of them, so a timer fires.
    runner.pass_time(1 / 8)
    self.assertEqual([len(batch) for batch in self._batches(runner)], [1, 4])
    self.assertTrue(runner.is_empty())

  def test_where_a_turn_takes_long_more_batches_are_flushed(self):
    for turn, at_least, at_most in ((0, 1, 2), (0.05, 15, 19)):
      runner = FakeRunner(BatchingOptions(cost=Cost(0, 1)), max_batch_size=1)
      runner.cost = Cost(0.01, 0)
      runner.arrive_together([((i, i), 5) for i in range(20)])
      before = len(runner.left)
      runner.now += turn
      runner.fire_deadline()
      self.assertTrue(at_least <= len(runner.left) - before <= at_most, turn)

  def test_a_runner_that_fires_no_timer_keeps_no_element_for_long(self):
    runner = FakeRunner(max_batch_size=8)
    runner.cost = Cost(WAIT, 0)
    runner.arrive((0, 10), 5)
    called = runner.now
    for i in range(1, 100):
      runner.arrive((i, 10), 5, late=2)
      if len(runner.left) > 1:
        break
      runner.now += 0.1
    self.assertLess(runner.left[1][2] - called, WAIT / 4 + 0.2)

  def test_under_overload_the_shortest_are_flushed_first(self):
    runner = FakeRunner(BatchingOptions(cost=Cost(0, 1)), max_batch_size=1)
    runner.cost = Cost(0, 1)
    late = 2 * WAIT
    runner.arrive_together([((i, length), 5)
                            for i, length in enumerate([4, 1, 3, 2])],
                           late=late)
    self.assertEqual([length for [(_, length)] in self._batches(runner)],
                     [1, 2, 3, 4])

  def test_fewer_than_the_minimum_wait(self):
    runner = FakeRunner(max_batch_size=8, min_batch_size=3)
    for i in range(2):
      runner.arrive((i, 10), 5)
    self.assertEqual(runner.left, [])
    runner.pass_time(WAIT)
    self.assertEqual(len(self._batches(runner)[0]), 2)
    runner.arrive_together([((i, 10), 5) for i in range(3)])
    self.assertEqual(len(self._batches(runner)[1]), 3)

  def test_explicit_boundaries(self):
    options = BatchingOptions(cost=Cost(20, 1))
    runner = FakeRunner(options, max_batch_size=8, bucket_boundaries=[100])
    runner.arrive_together([((0, 10), 5), ((1, 500), 5), ((2, 11), 5)])
    runner.pass_time(0)
    self.assertEqual(self._batches(runner), [[(0, 10), (2, 11)], [(1, 500)]])

  def test_a_model_that_takes_no_time_is_given_all_at_once(self):
    ticks = itertools.count()
    runner = FakeRunner(BatchingOptions(cost=Cost(1, 1)), max_batch_size=2)
    runner.ticks = lambda: next(ticks) * 1e-3
    runner.arrive_together([((i, i), 5) for i in range(10)])
    self.assertEqual(sum(map(len, self._batches(runner))), 10)


if __name__ == '__main__':
  unittest.main()
