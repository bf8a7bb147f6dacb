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

import unittest

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

import apache_beam as beam
from apache_beam.ml.inference import base
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.transforms import window
from apache_beam.transforms.batching.weight import SplitByWeightDoFn
from apache_beam.transforms.batching.weight import WeightLimitedBatchingDoFn
from apache_beam.transforms.util import BatchElements
from apache_beam.transforms.util import _BatchSizeEstimator

_STATEFUL = {'max_batch_duration_secs': 60}


class _BatchLengths(base.ModelHandler[str, str, None]):
  def load_model(self):
    return None

  def run_inference(self, batch, model, inference_args=None):
    return [str([len(text) for text in batch])] * len(batch)


def _weigh(length):
  return length


class MaxBatchWeightTest(unittest.TestCase):
  def _check(self, expected, into=window.GlobalWindows(), **kwargs):
    lengths = [4, 4, 4, 30, 1, 1, 1, 1]
    with TestPipeline(runner='FnApiRunner') as p:
      batches = (
          p
          | beam.Create([None])
          | beam.FlatMap(lambda _: lengths)
          | beam.Map(lambda n: window.TimestampedValue(n, 1))
          | beam.WindowInto(into)
          | BatchElements(
              3, 3, max_batch_weight=9, element_size_fn=_weigh, **kwargs))
      assert_that(batches, equal_to(expected))

  def test_in_a_bundle(self):
    expected = [[4, 4], [4], [30], [1, 1, 1], [1]]
    self._check(expected)
    self._check(expected, into=window.FixedWindows(10))

  def test_across_bundles(self):
    self._check([[4, 4], [4], [30], [1, 1], [1, 1]], **_STATEFUL)

  def test_model_handler(self):
    handler = _BatchLengths(
        max_batch_weight=9, element_size_fn=len, min_batch_size=3)
    with TestPipeline(runner='FnApiRunner') as p:
      results = p | beam.Create(['x' * 8]) | base.RunInference(handler)
      assert_that(results, equal_to(['[8]']))

  def test_weight_without_a_size_function(self):
    for make in (_BatchLengths, BatchElements):
      with self.assertRaisesRegex(ValueError,
                                  f'{make.__name__}: max_batch_weight needs'):
        make(max_batch_weight=9)

  @given(
      st.lists(st.integers(0, 12)),
      st.integers(1, 9),
      st.integers(1, 4),
      st.integers(1, 12))
  @settings(deadline=None)
  def test_each_element_in_one_batch_within_both_limits(
      self, weights, max_weight, max_size, windows):
    do_fn = WeightLimitedBatchingDoFn(
        _BatchSizeEstimator(max_size, max_size), _weigh, max_weight)
    do_fn.start_bundle()
    batches = []
    for i, weight in enumerate(weights):
      start = i % windows
      batches += do_fn.process(weight, window.IntervalWindow(start, start + 1))
    batches += do_fn.finish_bundle()
    values = [batch.value for batch in batches]
    self.assertEqual(sorted(weights), sorted(sum(values, [])))
    for value in values:
      self.assertTrue(0 < len(value) <= max_size)
      self.assertTrue(len(value) == 1 or sum(value) <= max_weight)

  @given(st.lists(st.integers(0, 12), min_size=1), st.integers(1, 9))
  def test_split_keeps_order_and_limit(self, weights, max_weight):
    parts = list(SplitByWeightDoFn(_weigh, max_weight).process(weights))
    self.assertEqual(weights, sum(parts, []))
    for part in parts:
      self.assertTrue(len(part) == 1 or sum(part) <= max_weight)


if __name__ == '__main__':
  unittest.main()
