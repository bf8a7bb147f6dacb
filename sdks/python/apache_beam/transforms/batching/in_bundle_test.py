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
import logging
import random
import unittest

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.transforms import window
from apache_beam.transforms.batching.cost_model import CostModel
from apache_beam.transforms.batching.in_bundle import LengthBatchingDoFn
from apache_beam.transforms.batching.in_bundle import default_options
from apache_beam.transforms.batching.least_cost import Cost
from apache_beam.transforms.batching.least_cost import least_cost_cut
from apache_beam.transforms.batching.least_cost import padded_size
from apache_beam.transforms.batching.lookahead import take_from_full_buffers
from apache_beam.transforms.batching.options import BatchingOptions
from apache_beam.transforms.util import BatchElements
from apache_beam.utils import windowed_value

_FLAG = '--experiments=smart_bucketing'

_seconds = itertools.count()


def _clock():
  """A second later each time that it is asked, so each call takes as long."""
  return next(_seconds)


class _Model:
  """Takes half a second for a call, and a tenth for each element."""
  now = 0.0

  @classmethod
  def time(cls):
    return cls.now

  @classmethod
  def run(cls, batch):
    cls.now += 0.5 + 0.1 * len(batch)
    return len(batch)


def _pipeline(*flags):
  return TestPipeline(
      runner='FnApiRunner', options=PipelineOptions(list(flags)))


def _one_bundle(lengths):
  """A PCollection of texts of these lengths, in one bundle, in this order."""
  texts = ['x' * length for length in lengths]
  return beam.Create([None]) | beam.FlatMap(lambda _: texts)


class _Describe(beam.DoFn):
  """Number of elements, timestamp and start of the window, in microseconds."""
  def process(
      self,
      batch,
      timestamp=beam.DoFn.TimestampParam,
      window=beam.DoFn.WindowParam):
    yield len(batch), timestamp.micros, window.start.micros


class BatchElementsByLengthTest(unittest.TestCase):
  def test_groups_neighbours_of_a_shuffled_bundle(self):
    with _pipeline(_FLAG) as p:
      batches = (
          p
          | _one_bundle([9, 1, 8, 2, 9, 1])
          | BatchElements(2, 2, length_fn=len)
          | beam.Map(lambda batch: [len(text) for text in batch]))
      assert_that(batches, equal_to([[9, 9], [2, 8], [1, 1]]))

  def test_without_the_flag_arrival_order_is_kept(self):
    with _pipeline() as p:
      batches = (
          p
          | _one_bundle([9, 1, 8, 2])
          | BatchElements(2, 2, length_fn=len)
          | beam.Map(lambda batch: [len(text) for text in batch]))
      assert_that(batches, equal_to([[9, 1], [8, 2]]))

  def test_without_a_length_function_the_flag_changes_nothing(self):
    with _pipeline(_FLAG) as p:
      batches = (
          p
          | _one_bundle([9, 1, 8, 2])
          | BatchElements(2, 2)
          | beam.Map(lambda batch: [len(text) for text in batch]))
      assert_that(batches, equal_to([[9, 1], [8, 2]]))

  def test_max_padded_size(self):
    options = BatchingOptions(max_padded_size=20)
    with _pipeline(_FLAG) as p:
      batches = (
          p
          | _one_bundle([1, 10, 2, 10, 30])
          | BatchElements(4, 4, length_fn=len, options=options)
          | beam.Map(lambda batch: [len(text) for text in batch]))
      assert_that(batches, equal_to([[30], [10, 10], [1, 2]]))

  def test_options_without_the_flag(self):
    with self.assertRaisesRegex(ValueError,
                                'BatchElements.*experiments=smart_bucketing'):
      with _pipeline() as p:
        _ = (
            p
            | _one_bundle([1])
            | BatchElements(length_fn=len, options=BatchingOptions()))

  def test_options_without_a_length_function(self):
    with self.assertRaisesRegex(ValueError, 'BatchElements.*length_fn'):
      BatchElements(options=BatchingOptions())

  def test_options_that_contradict_another_parameter(self):
    options = BatchingOptions(max_buffered_elements=8)
    with self.assertRaisesRegex(ValueError, 'hurry=1.*max_batch_duration'):
      BatchElements(length_fn=len, options=BatchingOptions(hurry=1))
    with self.assertRaisesRegex(ValueError, 'hurry=1.*bucket_boundaries'):
      BatchElements(
          length_fn=len,
          max_batch_duration_secs=1,
          bucket_boundaries=[10],
          options=BatchingOptions(hurry=1))
    with self.assertRaisesRegex(ValueError, 'min_batch_size=9.*Raise'):
      BatchElements(9, 9, length_fn=len, options=options)
    with self.assertRaisesRegex(ValueError, 'from 50 .*max_padded_size=40'):
      BatchElements(
          length_fn=len,
          bucket_boundaries=[10, 50],
          options=BatchingOptions(max_padded_size=40))

  def test_length_function_with_a_wrong_result(self):
    for result in (-1, 1.5, None):
      with self.subTest(result=result):
        with self.assertRaisesRegex(Exception, "length_fn returned.*'xxx'"):
          with _pipeline(_FLAG) as p:
            _ = (
                p
                | _one_bundle([3])
                | BatchElements(length_fn=lambda _, result=result: result))

  def test_windows_and_timestamps_are_those_without_the_flag(self):
    for flags in ((), (_FLAG, )):
      with self.subTest(flags=flags), _pipeline(*flags) as p:
        batches = (
            p
            | _one_bundle([5, 1, 5, 1, 5, 1])
            | beam.Map(lambda text: window.TimestampedValue(text, len(text)))
            | beam.WindowInto(window.FixedWindows(4))
            | BatchElements(3, 3, length_fn=len)
            | beam.ParDo(_Describe()))
        assert_that(batches, equal_to([(3, 3999999, 0), (3, 7999999, 4000000)]))

  def test_a_target_of_0_secs_is_none(self):
    with _pipeline(_FLAG) as p:
      sizes = (
          p
          | _one_bundle([5] * 127)
          | BatchElements(
              max_batch_size=64,
              length_fn=len,
              target_batch_duration_secs=0,
              clock=_clock)
          | beam.Map(len))
      assert_that(sizes, equal_to([1, 2, 4, 8, 16, 32, 64]))
    with self.assertRaisesRegex(ValueError, 'duration_secs .-1. must be pos'):
      BatchElements(length_fn=len, target_batch_duration_secs=-1)


class LengthBatchingDoFnTest(unittest.TestCase):
  def _batches(
      self, lengths, options, max_batch_size, windows=1, consume=None, **args):
    """Runs one bundle; element i has length lengths[i], window i % windows."""
    do_fn = LengthBatchingDoFn(
        lambda element: lengths[element], [(None, max_batch_size)],
        options,
        **args)
    all_windows = [window.IntervalWindow(i, i + 1) for i in range(windows)]
    do_fn.setup()
    do_fn.start_bundle()
    self.most_held = 0
    batches = []
    for element in range(len(lengths)):
      for batch in do_fn.process(element, all_windows[element % windows]) or ():
        batches.append(batch)
        if consume:
          consume(batch.value)
      self.most_held = max(self.most_held, do_fn._elements)
    for batch in do_fn.finish_bundle():
      batches.append(batch)
      if consume:
        consume(batch.value)
    return batches

  @given(
      st.lists(st.integers(0, 100), max_size=60),
      st.integers(1, 8),
      st.integers(1, 20),
      st.sampled_from([None, Cost(20, 1)]))
  @settings(deadline=None)
  def test_each_element_once_in_its_window_within_the_bounds(
      self, lengths, max_batch_size, max_held, cost):
    options = BatchingOptions(
        max_padded_size=200, max_buffered_elements=max_held, cost=cost)
    batches = self._batches(lengths, options, max_batch_size, windows=2)
    self.assertEqual(
        list(range(len(lengths))),
        sorted(itertools.chain(*(batch.value for batch in batches))))
    self.assertLess(self.most_held, max_held)
    for batch in batches:
      self.assertIsInstance(batch, windowed_value.WindowedValue)
      self.assertTrue(batch.value)
      self.assertEqual({batch.windows[0].start.micros // 1000000},
                       {element % 2
                        for element in batch.value})
      self.assertLessEqual(len(batch.value), max_batch_size)
      self.assertTrue(
          len(batch.value) == 1 or
          padded_size([lengths[e] for e in batch.value]) <= 200)

  def test_costs_less_than_cuts_of_full_buffers(self):
    rng = random.Random(0)
    lengths = [int(rng.lognormvariate(5, 1.2)) for _ in range(8192)]
    for cost in (Cost(200, 1), Cost(2000, 1)):
      options = BatchingOptions(max_buffered_elements=256, cost=cost)
      batches = self._batches(lengths, options, 32)
      total = sum(
          cost.of(len(b.value), max(lengths[e] for e in b.value))
          for b in batches)
      whole = 0
      for start in range(0, len(lengths), 256):
        held = sorted(lengths[start:start + 256])
        ends = least_cost_cut(held, cost, [([1] * 256, 32)])
        whole += sum(
            cost.of(end - first, held[end - 1])
            for first, end in itertools.pairwise([0, *ends]))
      self.assertLess(total, whole)

  def test_makes_the_batches_that_the_advisor_tells_of(self):
    rng = random.Random(0)
    lengths = [int(rng.lognormvariate(5, 1.2)) for _ in range(2000)]
    cost = Cost(200, 1)
    options = BatchingOptions(max_buffered_elements=256, cost=cost)
    made = [[lengths[e] for e in b.value]
            for b in self._batches(lengths, options, 32)]
    self.assertCountEqual(take_from_full_buffers(lengths, 256, cost, 32), made)

  def test_learns_from_the_time_of_the_consumers(self):
    # A model whose call is free: to pad is never worth it. And one whose call
    # costs as much as 10,000 tokens: batches are full.
    lengths = [random.Random(i).randrange(1, 100) for i in range(2000)]
    for cost, check in (
        (Cost(0, 1e-3), lambda sizes, padding: padding < 1.02),
        (Cost(10, 1e-3), lambda sizes, padding: sum(sizes[-70:]) / 70 > 25)):
      now = [0.0]

      def consume(batch, cost=cost, now=now):
        now[0] += cost.of(len(batch), max(lengths[e] for e in batch))

      batches = self._batches(
          lengths,
          BatchingOptions(),
          32,
          consume=consume,
          clock=lambda now=now: now[0])
      sizes = sorted(len(b.value) for b in batches)
      padded = sum(padded_size([lengths[e] for e in b.value]) for b in batches)
      with self.subTest(cost=cost):
        self.assertTrue(check(sizes, padded / sum(lengths)), sizes)

  def test_another_thread_learns_the_cost_after_a_cut_with_the_prior(self):
    class Learned(CostModel):
      def cost(self):
        prior = super().cost()
        self.learn(1, 100, 1e-3)
        return prior

    do_fn = LengthBatchingDoFn(lambda element: element, [(None, 4)])
    do_fn.setup()
    do_fn.model = Learned()
    predicted = []
    do_fn.metrics.prediction = lambda secs, _: predicted.append(secs)
    do_fn.start_bundle()
    for length in (100, 100):
      do_fn.process(length, window.GlobalWindow())
    self.assertEqual(2, len(list(do_fn.finish_bundle())))
    # That of the prior is in tokens, 164.
    self.assertEqual(1, len(predicted))
    self.assertLess(predicted[0], 0.1)

  def test_windows_that_are_empty_are_forgotten(self):
    for record_metrics in (True, False):
      do_fn = LengthBatchingDoFn(
          lambda element: 1, [(None, 4)],
          BatchingOptions(max_buffered_elements=4),
          record_metrics=record_metrics)
      do_fn.setup()
      do_fn.start_bundle()
      for i in range(100):
        for _ in do_fn.process(i, window.IntervalWindow(i, i + 1)) or ():
          pass
        self.assertLessEqual(len(do_fn._buffers), 4)

  def test_first_batches_grow_by_a_factor_of_two(self):
    batches = self._batches([5] * 300, BatchingOptions(), 64, clock=lambda: 0)
    sizes = [len(b.value) for b in batches]
    self.assertEqual([1, 2, 4, 8, 16, 32, 64], sizes[:7])

  @given(st.lists(st.integers(0, 600), max_size=200), st.integers(1, 64))
  def test_a_padded_size_is_at_most_twice_the_largest_before_it(
      self, lengths, max_batch_size):
    batches = self._batches(lengths, BatchingOptions(), max_batch_size)
    largest = 0
    for batch in batches:
      size = padded_size([lengths[e] for e in batch.value])
      if len(batch.value) > 1 and largest:
        self.assertLessEqual(size, 2 * largest)
      largest = max(largest, size)

  def test_batches_grow_no_more_where_larger_ones_cost_more(self):
    lengths = [8] * 200 + [512] * 200
    now = [0.0]

    def consume(batch):
      tokens = padded_size([lengths[e] for e in batch])
      now[0] += 8e-3 + tokens * (2e-4 if tokens < 5000 else 2.4e-4)

    batches = self._batches(
        lengths, BatchingOptions(), 32, consume=consume, clock=lambda: now[0])
    sizes = [len(b.value) for b in batches if lengths[b.value[0]] == 512]
    self.assertLessEqual(max(sizes), 16, sizes)
    self.assertLess(sum(sizes) / len(sizes), 10, sizes)

  def test_batches_take_no_longer_than_the_target(self):
    now = [0.0]

    def consume(batch):
      now[0] += 0.1 * len(batch)

    batches = self._batches([5] * 1000,
                            BatchingOptions(),
                            10000,
                            consume=consume,
                            target_secs=2,
                            clock=lambda: now[0])
    sizes = [len(b.value) for b in batches]
    # Some overshoot, until the prior is outweighed.
    self.assertEqual(20, max(sizes[len(sizes) // 2:]), sizes)

  def test_batches_take_no_longer_than_the_target_with_the_fixed_cost(self):
    def check(sizes):
      assert sum(sizes) == 1000
      assert 15 <= max(sizes[len(sizes) // 2:]) <= 22, sizes

    with _pipeline(_FLAG) as p:
      sizes = (
          p | _one_bundle([5] * 1000)
          | BatchElements(
              length_fn=len,
              max_batch_size=10000,
              target_batch_duration_secs_including_fixed_cost=2.5,
              clock=_Model.time)
          | beam.Map(_Model.run))
      assert_that(sizes, check)

  def test_clock_that_goes_backwards(self):
    ticks = itertools.count(0, -1)
    batches = self._batches([1, 2, 3] * 9,
                            BatchingOptions(),
                            4,
                            clock=lambda: next(ticks))
    self.assertEqual(27, sum(len(b.value) for b in batches))

  def test_minimum_equal_to_the_maximum_gives_full_batches(self):
    lengths = [random.Random(i).randrange(100) for i in range(1000)]
    options = BatchingOptions(max_buffered_elements=150)
    batches = self._batches(lengths, options, 32, min_batch_size=32)
    self.assertGreaterEqual(33, len(batches))

  def test_batches_are_no_smaller_than_the_minimum(self):
    lengths = [i * i for i in range(64)]
    options = BatchingOptions(cost=Cost(0, 1))
    self.assertEqual(64, len(self._batches(lengths, options, 32)))
    batches = self._batches(lengths, options, 32, min_batch_size=8)
    self.assertLessEqual(8, min(len(b.value) for b in batches))

  def test_boundaries_part_batches(self):
    lengths = [5, 15, 16, 31, 32, 99] * 10
    batches = self._batches(
        lengths, BatchingOptions(cost=Cost(0, 1)), 100, boundaries=(16, 32))
    self.assertCountEqual([{5, 15}, {16, 31}, {32, 99}],
                          [{lengths[e]
                            for e in b.value} for b in batches])

  def test_bytes_that_are_held_are_bounded(self):
    options = BatchingOptions(max_buffered_bytes=10_000)
    self._batches([1] * 2000, options, 32)
    self.assertLess(self.most_held, 10_000 / 24)

  def test_an_element_over_all_bytes_leaves_at_once(self):
    do_fn = LengthBatchingDoFn(
        len, [(None, 32)], BatchingOptions(max_buffered_bytes=10_000))
    do_fn.setup()
    do_fn.start_bundle()
    self.assertIsNone(do_fn.process('x', window.GlobalWindow()))
    enormous = 'x' * 1_000_000
    batches = list(do_fn.process(enormous, window.GlobalWindow()))
    self.assertIn([enormous], [batch.value for batch in batches])

  def test_element_over_a_limit(self):
    lengths = [5, 500, 5]
    options = BatchingOptions(max_padded_size=100, cost=Cost(99, 1))
    self.assertCountEqual([[0, 2], [1]],
                          [b.value for b in self._batches(lengths, options, 9)])
    with self.assertRaisesRegex(ValueError, 'length 500 .*: 1. Raise'):
      self._batches(
          lengths, BatchingOptions(max_padded_size=100, oversized='refuse'), 9)

  def test_many_windows_are_not_searched_for_each_element(self):
    options = BatchingOptions(max_buffered_elements=100, cost=Cost(99, 1))
    batches = self._batches([1] * 1000, options, 32, windows=90)
    # One search through the windows frees room for 50 elements.
    self.assertGreater(1000 / len(batches), 1.1)
    self.assertEqual(1000, sum(len(b.value) for b in batches))

  def test_room_for_batches_of_the_minimum(self):
    self.assertEqual(2048, default_options(32).max_buffered_elements)
    self.assertEqual(32768, default_options(4096).max_buffered_elements)


if __name__ == '__main__':
  logging.getLogger().setLevel(logging.INFO)
  unittest.main()
