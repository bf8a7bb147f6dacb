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

import apache_beam as beam
from apache_beam.transforms import window
from apache_beam.transforms.batching.in_bundle import LengthBatchingDoFn
from apache_beam.transforms.batching.in_bundle import default_options
from apache_beam.transforms.batching.options import BatchingOptions
from apache_beam.transforms.batching.policy.cost_model import CostModel
from apache_beam.transforms.batching.policy.least_cost import Cost
from apache_beam.transforms.batching.policy.least_cost import least_cost_cut
from apache_beam.transforms.batching.policy.least_cost import padded_size
from apache_beam.transforms.batching.policy.lookahead import take_from_full_buffers
from apache_beam.transforms.batching.policy.memory_limit import report_out_of_memory
from apache_beam.transforms.util import _BatchSizeEstimator
from apache_beam.utils import windowed_value


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
      self.most_held = max(self.most_held, do_fn._amount.elements)
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

  def test_less_time_where_each_new_shape_is_compiled(self):
    # As XLA does it, 2 s for a shape; MiniLM-L6's cost on 2 CPU cores.
    cost, compiling = Cost(8e-3, 1.4e-4), 2.0
    for seed in range(3):
      rng = random.Random(seed)
      lengths = [1 + int(rng.lognormvariate(6, 1)) for _ in range(2000)]
      now, seen = [0.0], set()

      def consume(batch, lengths=lengths, now=now, seen=seen):
        shape = len(batch), max(lengths[e] for e in batch)
        now[0] += cost.of(*shape) + (0 if shape in seen else compiling)
        seen.add(shape)

      clock = lambda now=now: now[0]
      self._batches(
          lengths,
          BatchingOptions(),
          32,
          consume=consume,
          clock=clock,
          target_secs=10)
      by_length, now[0] = now[0], 0.0
      seen.clear()
      for start in range(0, 2000, 32):
        consume(range(start, min(2000, start + 32)))
      arrival_order, now[0] = now[0], 0.0
      seen.clear()
      estimator = _BatchSizeEstimator(max_batch_size=32, clock=clock)
      start = 0
      while start < 2000:
        end = min(2000, start + estimator.next_batch_size())
        with estimator.record_time(end - start):
          consume(range(start, end))
        start = end
      self.assertLess(by_length, 0.8 * arrival_order)
      self.assertLess(by_length, 0.8 * now[0])

  def _waits(self, **options):
    """The longest wait, and the padding ratio, of a bundle of 60 s of model time
    that is read at once."""
    rng = random.Random(0)
    lengths = [1 + int(rng.lognormvariate(4.5, 1)) for _ in range(3000)]
    cost, now = Cost(8e-3, 1.4e-4), [0.0]
    arrived, waits = {}, []

    def length_fn(element):
      arrived[element] = now[0]
      return lengths[element]

    def consume(batch):
      waits.extend(now[0] - arrived[e] for e in batch)
      now[0] += cost.of(len(batch), max(lengths[e] for e in batch))

    do_fn = LengthBatchingDoFn(
        length_fn, [(None, 32)],
        BatchingOptions(**options),
        clock=lambda: now[0])
    do_fn.setup()
    do_fn.start_bundle()
    batches = []
    for element in [*range(3000), None]:
      for batch in (do_fn.process(element, window.GlobalWindow()) or
                    () if element is not None else do_fn.finish_bundle()):
        batches.append([lengths[e] for e in batch.value])
        consume(batch.value)
    self.assertEqual(3000, sum(map(len, batches)))
    return max(waits), sum(map(padded_size, batches)) / sum(lengths)

  def test_what_is_buffered_is_bounded_by_the_models_time(self):
    longest, padding = self._waits(max_buffered_secs=None)
    self.assertGreater(longest, 35)
    for secs in (10, 5):
      bounded, padding_bounded = self._waits(max_buffered_secs=secs)
      self.assertLess(bounded, 2.5 * secs)
      self.assertLess(padding_bounded, 1.02 * padding)

  def test_an_element_is_measured_once_for_all_its_windows(self):
    calls = []

    def length_fn(element):
      calls.append(element)
      return len(element)

    do_fn = LengthBatchingDoFn(length_fn, [(None, 4)])
    do_fn.setup()
    do_fn.start_bundle()
    for text in ('a', 'bb', 'a'):
      for start in range(3):
        self.assertFalse(
            do_fn.process(text, window.IntervalWindow(start, start + 3)))
    batches = list(do_fn.finish_bundle())
    self.assertEqual(['a', 'bb', 'a'], calls)
    self.assertEqual(9, sum(len(batch.value) for batch in batches))

  def test_what_was_learned_is_kept_over_setup(self):
    do_fns = [
        LengthBatchingDoFn(len, [(None, 4)], model='kept') for _ in range(2)
    ]
    for do_fn in do_fns:
      do_fn.setup()
    do_fns[0].learn(4, 100, 1.0, failed=True)
    do_fns[0].learn(2, 100, 1.0, failed=False)
    do_fns[1].setup()
    self.assertEqual(200, do_fns[1].memory.limit)
    self.assertEqual(2, do_fns[1].model.largest_count)

  def test_learns_a_limit_from_a_batch_that_does_not_fit_in_memory(self):
    do_fn = LengthBatchingDoFn(
        lambda element: 100, [(None, 8)], BatchingOptions(cost=Cost(1e6, 1)))
    do_fn.setup()
    do_fn.start_bundle()
    for i in range(8):
      do_fn.process(i, window.GlobalWindow())
    for batch in do_fn.finish_bundle():
      report_out_of_memory(batch.value)
    self.assertEqual(400, do_fn.memory.limit)
    # Nor is its time that of a batch.
    self.assertFalse(do_fn.model.is_learned)

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
    self.assertFalse(do_fn.process('x', window.GlobalWindow()))
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


class LogTest(unittest.TestCase):
  def test_core_finds_nothing_odd_about_what_it_returns(self):
    do_fn = LengthBatchingDoFn(len, [(None, 8)])
    with self.assertNoLogs(level='WARNING'):
      _ = beam.ParDo(do_fn)


if __name__ == '__main__':
  unittest.main()
