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
import random
import unittest

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

import apache_beam as beam
from apache_beam.ml.inference import base
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.transforms import trigger
from apache_beam.transforms import window
from apache_beam.transforms.batching.fake_runner_for_tests import WAIT
from apache_beam.transforms.batching.fake_runner_for_tests import WINDOW
from apache_beam.transforms.batching.fake_runner_for_tests import FakeRunner
from apache_beam.transforms.batching.fake_runner_for_tests import OneBundle
from apache_beam.transforms.batching.least_cost import Cost
from apache_beam.transforms.batching.metrics import metrics_table
from apache_beam.transforms.batching.options import BatchingOptions
from apache_beam.utils.timestamp import Timestamp

_FLAG = '--experiments=smart_bucketing'

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


class WaitingDoFnTest(unittest.TestCase):
  @settings(deadline=None)
  @given(
      _steps,
      st.sampled_from([((), 0.0), ((), 0.5), ((), 1.0), ((10, 30), 0.0)]),
      st.booleans())
  def test_whatever_happens(self, steps, policy, small):
    boundaries, hurry = policy
    options = BatchingOptions(
        max_padded_size=100,
        hurry=hurry,
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
      runner = FakeRunner(BatchingOptions(cost=Cost(200, 1)), max_batch_size=32)
      runner.room = OneBundle()
      for i in range(5000):
        runner.arrive((i, int(lengths.lognormvariate(6.5, 1.1))), 5)
        runner.pass_time(1 / arrivals_per_sec)
      left = sum(len(batch) for batch, _, _ in runner.left)
      self.assertGreater(left, 2500)
      reads = sum(bag.reads for bag in runner.bags) / left
      self.assertLess(reads, 8, arrivals_per_sec)

  def test_neighbours_leave_with_what_is_due(self):
    runner = FakeRunner(
        max_batch_size=4,
        options=BatchingOptions(cost=Cost(fixed=20, per_token=1)))
    for element in ((0, 10), (1, 500), (2, 11)):
      runner.arrive(element, 5)
    runner.pass_time(WAIT)
    self.assertEqual([batch for batch, _, _ in runner.left],
                     [[(0, 10), (2, 11)], [(1, 500)]])

  def test_the_end_of_a_window_lets_the_shortest_leave_first(self):
    runner = FakeRunner(
        max_batch_size=2,
        options=BatchingOptions(cost=Cost(fixed=20, per_token=1)))
    for i, length in enumerate((900, 10, 500, 480, 11, 12)):
      runner.arrive((i, length), 5)
    runner.end_window()
    longest = [batch[-1][1] for batch, _, _ in runner.left]
    self.assertEqual(longest, sorted(longest))
    self.assertEqual([500, 900], longest[-2:])

  def test_a_batch_is_never_behind_the_hold(self):
    runner = FakeRunner(max_batch_size=4)
    runner.arrive((0, 10), 50)
    runner.arrive((1, 900), 20)
    runner.pass_time(WAIT)
    self.assertEqual([timestamp for _, timestamp, _ in runner.left],
                     [Timestamp(50)] * 2)

  def test_a_batch_takes_no_longer_than_its_target(self):
    runner = FakeRunner(max_batch_size=64, target_batch_duration_secs=1)
    # So ten elements take a second.
    runner.secs_per_element = 0.1
    for i in range(600):
      runner.arrive((i, 10), 5)
    sizes = [len(batch) for batch, _, _ in runner.left]
    self.assertGreater(len(sizes), 20)
    self.assertGreater(max(sizes[-10:]), 4)
    self.assertLess(max(sizes[-10:]), 15)

  def test_an_arrival_finds_what_is_due_where_no_timer_fires(self):
    runner = FakeRunner(max_batch_size=4)
    runner.arrive((0, 10), 5)
    runner.now += WAIT
    runner.arrive((1, 900), 5)
    self.assertEqual([batch for batch, _, _ in runner.left], [[(0, 10)]])

  def test_what_comes_late_waits_for_what_comes_with_it(self):
    runner = FakeRunner(
        max_batch_size=4,
        options=BatchingOptions(cost=Cost(fixed=20, per_token=1)))
    # A runner that is behind brings a bundle of several chunks.
    for i, length in enumerate((10, 500, 11, 499)):
      runner.arrive((i, length), 5, late=2 * WAIT)
    self.assertEqual([], runner.left)
    runner.pass_time(WAIT / 8)
    self.assertEqual([batch for batch, _, _ in runner.left],
                     [[(0, 10), (2, 11)], [(3, 499), (1, 500)]])
    self.assertTrue(runner.is_empty())

  def test_what_comes_late_does_not_put_off_what_is_due(self):
    runner = FakeRunner(max_batch_size=4)
    runner.arrive((0, 10), 5)
    runner.now += WAIT
    # No timer has fired.
    runner.arrive((1, 900), 5, late=2 * WAIT)
    self.assertEqual([batch for batch, _, _ in runner.left],
                     [[(1, 900)], [(0, 10)]])

  def test_what_was_measured_before_what_waits_is_due_before_it(self):
    for ago, waits in ((8, WAIT - 8), (2 * WAIT, WAIT / 8)):
      runner = FakeRunner(max_batch_size=4)
      runner.arrive((0, 10), 50)
      runner.now += 1
      # From a bundle that took long, and on to another timestamp.
      runner.arrive((1, 900), 5, late=ago)
      runner.pass_time(2 * WAIT)
      self.assertEqual([(batch, left) for batch, _, left in runner.left],
                       [([(1, 900)], 101 + waits), ([(0, 10)], 100 + WAIT)])

  def test_a_clock_that_is_ahead(self):
    runner = FakeRunner(max_batch_size=4)
    runner.arrive((0, 10), 5, late=-60)
    runner.pass_time(WAIT)
    self.assertEqual([batch for batch, _, _ in runner.left], [[(0, 10)]])

  def test_what_is_late_gathers_once(self):
    runner = FakeRunner(max_batch_size=4)
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
    runner = FakeRunner(max_batch_size=4)
    runner.arrive((0, 10), 5, late=2 * WAIT)
    runner.now -= 3600
    runner.fire_deadline()
    self.assertEqual([batch for batch, _, _ in runner.left], [[(0, 10)]])

  def test_a_clock_that_goes_backwards(self):
    runner = FakeRunner(max_batch_size=4)
    runner.arrive((0, 10), 5)
    runner.now -= 3600
    runner.fire_deadline()
    self.assertEqual([batch for batch, _, _ in runner.left], [[(0, 10)]])


class _Echo(base.ModelHandler[str, str, None]):
  def load_model(self):
    return None

  def run_inference(self, batch, model, inference_args=None):
    return batch


def _pipeline(*flags):
  return TestPipeline(
      runner='FnApiRunner', options=PipelineOptions([_FLAG, *flags]))


class BatchElementsAcrossBundlesTest(unittest.TestCase):
  def _texts(self, p):
    return (
        p | beam.Create(range(100))
        |
        beam.Map(lambda i: window.TimestampedValue('x' * (1 + 37 * i % 50), i))
        | beam.WindowInto(
            window.FixedWindows(50),
            trigger=trigger.AfterWatermark(),
            accumulation_mode=trigger.AccumulationMode.DISCARDING,
            allowed_lateness=0)
        | beam.Reshuffle())

  def test_windows_are_kept_and_nothing_is_dropped_behind(self):
    with _pipeline() as p:
      counts = (
          self._texts(p)
          | beam.BatchElements(
              max_batch_size=8, length_fn=len, max_batch_duration_secs=60)
          | beam.Map(lambda batch: (None, len(batch)))
          | beam.CombinePerKey(sum))
      assert_that(counts, equal_to([(None, 50)] * 2))

  def test_batches_hold_similar_lengths(self):
    def check(batches):
      sizes = [[len(text) for text in batch] for batch in batches]
      padded = sum(max(s) * len(s) for s in sizes)
      assert padded / sum(map(sum, sizes)) < 1.2, sizes
      assert max(map(len, sizes)) <= 8

    with _pipeline() as p:
      assert_that(
          self._texts(p)
          | beam.BatchElements(
              max_batch_size=8, length_fn=len, max_batch_duration_secs=60),
          check)

  def test_shards(self):
    with _pipeline() as p:
      sizes = (
          p | beam.Create([[10] * 12])
          | beam.FlatMap(lambda lengths: lengths)
          | beam.BatchElements(
              max_batch_size=32,
              length_fn=lambda length: length,
              max_batch_duration_secs=60,
              options=BatchingOptions(shards=3, cost=Cost(20, 1)))
          | beam.Map(len))
      assert_that(sizes, equal_to([4, 4, 4]))

  def test_run_inference(self):
    handler = _Echo(
        max_batch_size=8, batch_length_fn=len, max_batch_duration_secs=60)
    options = BatchingOptions(max_padded_size=100)
    p = _pipeline()
    results = self._texts(p) | base.RunInference(
        handler, batching_options=options)
    assert_that(
        results | beam.combiners.Count.Globally().without_defaults(),
        equal_to([50, 50]))
    table = metrics_table(p.run())
    self.assertIn('| elements | 100 |', table)
    self.assertIn('window end', table)

  def test_run_inference_with_exception_handling(self):
    handler = _Echo(
        max_batch_size=8,
        batch_length_fn=lambda text: len(text) or None,
        max_batch_duration_secs=60)
    with _pipeline() as p:
      results, other = (
          p | beam.Create(['a', '', 'bb'])
          | base.RunInference(handler).with_exception_handling())
      assert_that(results, equal_to(['a', 'bb']))
      assert_that(
          other.failed_inferences | beam.Map(lambda failed: failed[0]),
          equal_to([['']]),
          label='failed')

  def test_sessions_are_refused(self):
    with self.assertRaisesRegex(ValueError, 'BatchElements: .*Sessions'):
      with _pipeline() as p:
        _ = (
            p | beam.Create(['a']) | beam.WindowInto(window.Sessions(5))
            | beam.BatchElements(length_fn=len, max_batch_duration_secs=1))

  def test_runners_that_would_lose_elements_are_refused(self):
    for flags, message in (
        (['--runner=PrismRunner'], 'Prism .*prism_disable_sdf_split'),
        (['--runner=SparkRunner', '--streaming'], 'Spark .*no timers')):
      p = beam.Pipeline(options=PipelineOptions([_FLAG, *flags]))
      texts = p | beam.Create(['a'])
      with self.assertRaisesRegex(ValueError, f'BatchElements: .*{message}'):
        _ = texts | beam.BatchElements(length_fn=len, max_batch_duration_secs=1)

  def test_prism_that_splits_nothing(self):
    p = beam.Pipeline(
        options=PipelineOptions([
            _FLAG,
            '--runner=PrismRunner',
            '--experiments=prism_disable_sdf_split'
        ]))
    _ = p | beam.Create(['a']) | beam.BatchElements(
        length_fn=len, max_batch_duration_secs=1)

  def test_a_pipeline_updated_from_2_77_keeps_its_state(self):
    with _pipeline('--update_compatibility_version=2.77.0') as p:
      _ = p | beam.Create(['a']) | beam.BatchElements(
          length_fn=len, max_batch_duration_secs=1)
    labels = [part.full_label for part in p.transforms_stack[0].parts[1].parts]
    self.assertTrue(any('_StatefulBatchElementsDoFn' in l for l in labels))


if __name__ == '__main__':
  unittest.main()
