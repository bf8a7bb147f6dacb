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
from apache_beam.transforms.batching.in_bundle import LengthBatchingDoFn
from apache_beam.transforms.batching.in_bundle import default_options
from apache_beam.transforms.batching.options import BatchingOptions
from apache_beam.transforms.batching.packing import padded_size
from apache_beam.transforms.util import BatchElements
from apache_beam.transforms.util import _BatchSizeEstimator
from apache_beam.utils import windowed_value

_FLAG = '--experiments=smart_bucketing'


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
    with self.assertRaisesRegex(ValueError, 'max_batch_duration_secs=60'):
      BatchElements(length_fn=len, max_batch_duration_secs=60, options=options)
    with self.assertRaisesRegex(ValueError, 'min_batch_size=9.*Raise'):
      BatchElements(9, 9, length_fn=len, options=options)

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


class LengthBatchingDoFnTest(unittest.TestCase):
  def _batches(self, lengths, options, max_batch_size, windows=1):
    """Runs one bundle; element i has length lengths[i], window i % windows."""
    do_fn = LengthBatchingDoFn(
        _BatchSizeEstimator(max_batch_size, max_batch_size), lambda _: 1,
        lambda element: lengths[element],
        options)
    all_windows = [window.IntervalWindow(i, i + 1) for i in range(windows)]
    do_fn.start_bundle()
    self.most_buffered = 0
    batches = []
    for element in range(len(lengths)):
      batches += do_fn.process(element, all_windows[element % windows]) or ()
      self.most_buffered = max(self.most_buffered, do_fn._buffered)
    return batches + list(do_fn.finish_bundle())

  @given(
      st.lists(st.integers(0, 100), max_size=60),
      st.integers(1, 8),
      st.integers(1, 20))
  @settings(deadline=None)
  def test_each_element_once_in_its_window_within_the_bounds(
      self, lengths, max_batch_size, max_buffered):
    options = BatchingOptions(
        max_padded_size=200, max_buffered_elements=max_buffered)
    batches = self._batches(lengths, options, max_batch_size, windows=2)
    self.assertEqual(
        list(range(len(lengths))),
        sorted(itertools.chain(*(batch.value for batch in batches))))
    self.assertLess(self.most_buffered, max_buffered)
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

  def test_batches_inside_of_a_bundle_are_full(self):
    lengths = [random.Random(i).randrange(100) for i in range(1000)]
    options = BatchingOptions(max_buffered_elements=150)
    sizes = [len(b.value) for b in self._batches(lengths, options, 32)]
    self.assertEqual([32] * 31, sorted(sizes)[-31:])
    self.assertEqual(1000 - 31 * 32, sum(sorted(sizes)[:-31]))

  def test_many_windows_are_not_searched_for_each_element(self):
    options = BatchingOptions(max_buffered_elements=100)
    batches = self._batches([1] * 1000, options, 32, windows=90)
    # One search through the windows frees room for 50 elements.
    self.assertGreater(1000 / len(batches), 1.1)
    self.assertEqual(1000, sum(len(b.value) for b in batches))

  def test_room_for_batches_of_the_minimum(self):
    self.assertEqual(2048, default_options(32).max_buffered_elements)
    self.assertEqual(32768, default_options(4096).max_buffered_elements)

  def test_pads_less_than_arrival_order(self):
    rng = random.Random(0)
    lengths = [int(rng.lognormvariate(4, 1)) for _ in range(2000)]
    sorted_batches = self._batches(lengths, BatchingOptions(), 32)
    cut = sum(
        padded_size([lengths[e] for e in b.value]) for b in sorted_batches)
    arrival = sum(
        padded_size(lengths[i:i + 32]) for i in range(0, len(lengths), 32))
    self.assertLess(cut / sum(lengths), 1.1)
    self.assertGreater(arrival / sum(lengths), 3)


if __name__ == '__main__':
  logging.getLogger().setLevel(logging.INFO)
  unittest.main()
