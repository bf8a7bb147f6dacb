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

import fractions
import itertools
import math
import unittest

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.transforms import window
from apache_beam.transforms.batching.options import BatchingOptions
from apache_beam.transforms.batching.policy.least_cost import Cost
from apache_beam.transforms.util import BatchElements

FLAG = '--experiments=smart_bucketing'
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


def pipeline(*flags):
  return TestPipeline(
      runner='FnApiRunner', options=PipelineOptions(list(flags)))


def one_bundle(lengths):
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
    with pipeline(FLAG) as p:
      batches = (
          p
          | one_bundle([9, 1, 8, 2, 9, 1])
          | BatchElements(2, 2, length_fn=len)
          | beam.Map(lambda batch: [len(text) for text in batch]))
      assert_that(batches, equal_to([[9, 9], [2, 8], [1, 1]]))

  def test_without_the_flag_arrival_order_is_kept(self):
    with pipeline() as p:
      batches = (
          p
          | one_bundle([9, 1, 8, 2])
          | BatchElements(2, 2, length_fn=len)
          | beam.Map(lambda batch: [len(text) for text in batch]))
      assert_that(batches, equal_to([[9, 1], [8, 2]]))

  def test_without_a_length_function_the_flag_changes_nothing(self):
    with pipeline(FLAG) as p:
      batches = (
          p
          | one_bundle([9, 1, 8, 2])
          | BatchElements(2, 2)
          | beam.Map(lambda batch: [len(text) for text in batch]))
      assert_that(batches, equal_to([[9, 1], [8, 2]]))

  def test_max_padded_size(self):
    options = BatchingOptions(max_padded_size=20)
    with pipeline(FLAG) as p:
      batches = (
          p
          | one_bundle([1, 10, 2, 10, 30])
          | BatchElements(4, 4, length_fn=len, options=options)
          | beam.Map(lambda batch: [len(text) for text in batch]))
      assert_that(batches, equal_to([[30], [10, 10], [1, 2]]))

  def test_sizes_count_in_each_batch(self):
    for size_fn, expected in (
        (len, [[30], [4], [1, 4, 4], [1, 1, 1]]),
        (lambda text: len(text) / 2, [[30], [1, 1, 1, 1, 4, 4, 4]]),
        (lambda text: math.inf, [[length] for length in [30] + 3 * [4] +
                                 4 * [1]]),
        (lambda text: -1, [[1, 1, 1, 1, 4], [4, 4, 30]])):
      with pipeline(FLAG) as p:
        batches = (
            p
            | one_bundle([4, 4, 4, 30, 1, 1, 1, 1])
            | BatchElements(
                3,
                3 if size_fn is len else 8,
                max_batch_weight=9,
                element_size_fn=size_fn,
                length_fn=len,
                options=BatchingOptions(cost=Cost(99, 1)))
            | beam.Map(lambda batch: sorted(len(text) for text in batch)))
        assert_that(batches, equal_to(expected))

  def test_options_without_the_flag(self):
    with self.assertRaisesRegex(ValueError,
                                'BatchElements.*experiments=smart_bucketing'):
      with pipeline() as p:
        _ = (
            p
            | one_bundle([1])
            | BatchElements(length_fn=len, options=BatchingOptions()))

  def test_sizes_that_are_no_integers(self):
    for low, high in ((2.0, 8), (1.5, 8.0), (fractions.Fraction(3, 2), 2),
                      (math.inf, math.inf)):
      with pipeline(FLAG) as p:
        texts = (
            p | one_bundle([1, 2, 3, 4])
            | BatchElements(low, high, length_fn=len)
            | beam.FlatMap(lambda batch: map(len, batch)))
        assert_that(texts, equal_to([1, 2, 3, 4]))

  def test_options_without_a_length_function(self):
    with self.assertRaisesRegex(ValueError, 'BatchElements.*length_fn'):
      BatchElements(options=BatchingOptions())

  def test_options_that_contradict_another_parameter(self):
    options = BatchingOptions(max_buffered_elements=8)
    with self.assertRaisesRegex(ValueError,
                                "optimize_for='cost'.*max_batch_duration"):
      BatchElements(length_fn=len, options=BatchingOptions(optimize_for='cost'))
    with self.assertRaisesRegex(ValueError, 'min_batch_size=9.*Raise'):
      BatchElements(9, 9, length_fn=len, options=options)
    with self.assertRaisesRegex(ValueError, 'from 50 .*max_padded_size=40'):
      BatchElements(
          length_fn=len,
          bucket_boundaries=[10, 50],
          options=BatchingOptions(max_padded_size=40))

  def test_length_function_with_a_wrong_result(self):
    for result in (-1, math.nan, None, 'x'):
      with self.subTest(result=result):
        with self.assertRaisesRegex(Exception, "length_fn returned.*'xxx'"):
          with pipeline(FLAG) as p:
            _ = (
                p
                | one_bundle([3])
                | BatchElements(length_fn=lambda _, result=result: result))

  def test_windows_and_timestamps_are_those_without_the_flag(self):
    for flags in ((), (FLAG, )):
      with self.subTest(flags=flags), pipeline(*flags) as p:
        batches = (
            p
            | one_bundle([5, 1, 5, 1, 5, 1])
            | beam.Map(lambda text: window.TimestampedValue(text, len(text)))
            | beam.WindowInto(window.FixedWindows(4))
            | BatchElements(3, 3, length_fn=len)
            | beam.ParDo(_Describe()))
        assert_that(batches, equal_to([(3, 3999999, 0), (3, 7999999, 4000000)]))

  def test_a_target_of_0_secs_is_none(self):
    with pipeline(FLAG) as p:
      sizes = (
          p
          | one_bundle([5] * 127)
          | BatchElements(
              max_batch_size=64,
              length_fn=len,
              target_batch_duration_secs=0,
              options=BatchingOptions(max_buffered_secs=None),
              clock=_clock)
          | beam.Map(len))
      assert_that(sizes, equal_to([1, 2, 4, 8, 16, 32, 64]))
    with self.assertRaisesRegex(ValueError, 'duration_secs .-1. must be pos'):
      BatchElements(length_fn=len, target_batch_duration_secs=-1)

  def test_batches_take_no_longer_than_the_target_with_the_fixed_cost(self):
    def check(sizes):
      assert sum(sizes) == 1000
      assert 15 <= max(sizes[len(sizes) // 2:]) <= 22, sizes

    with pipeline(FLAG) as p:
      sizes = (
          p | one_bundle([5] * 1000)
          | BatchElements(
              length_fn=len,
              max_batch_size=10000,
              target_batch_duration_secs_including_fixed_cost=2.5,
              clock=_Model.time)
          | beam.Map(_Model.run))
      assert_that(sizes, check)


if __name__ == '__main__':
  unittest.main()
