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

import tempfile
import unittest

import apache_beam as beam
from apache_beam.ml.inference import base
from apache_beam.ml.inference.halving_test import Embeddings
from apache_beam.ml.inference.halving_test import RunInferenceTestCase
from apache_beam.ml.inference.halving_test import run_and_count
from apache_beam.ml.transforms.base import MLTransform
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to

_FLAG = '--experiments=smart_bucketing'


class _Model(base.ModelHandler[str, str, None]):
  """Fails for a batch with the text 'bad', and for more than two texts."""
  def load_model(self):
    return None

  def run_inference(self, batch, model, inference_args=None):
    if 'bad' in batch:
      raise ValueError('bad')
    if len(batch) > 2:
      raise MemoryError()
    return [f'{text} of {len(batch)}' for text in batch]


class BisectFailedBatchesTest(RunInferenceTestCase):
  def test_a_threshold_is_a_share_of_elements(self):
    # Of 8 in 2 batches.
    texts = ['a', 'b', 'bad', 'bad', 'c', 'd', 'e', 'bad']
    for threshold in (0.4, 0.3):
      p = self._pipeline()
      results, _ = self._texts(p, *texts) | base.RunInference(
          _Model(min_batch_size=4, max_batch_size=4)).with_exception_handling(
              threshold=threshold, bisect_failed_batches=True)
      assert_that(results | beam.combiners.Count.Globally(), equal_to([5]))
      if threshold > 3 / 8:
        p.run()
      else:
        with self.assertRaisesRegex(Exception, '3 of 8 .*threshold=0.3'):
          p.run()

  def test_a_bad_element_fails_alone_with_and_without_the_flag(self):
    for flags in ((), (_FLAG, )):
      self._check_that_a_bad_element_fails_alone(flags)

  def _check_that_a_bad_element_fails_alone(self, flags):
    p = TestPipeline(runner='FnApiRunner', options=PipelineOptions(flags))
    results, other = self._texts(p, 'a', 'b', 'bad', 'c') | base.RunInference(
        _Model(min_batch_size=4, max_batch_size=4)).with_exception_handling(
            bisect_failed_batches=True)
    assert_that(results, equal_to(['a of 2', 'b of 2', 'c of 1']))
    assert_that(
        other.failed_inferences
        | beam.Map(lambda failed: (failed[0], failed[1][0], failed[1][1])),
        equal_to([(['bad'], ValueError, "ValueError('bad')")]),
        label='failed')
    counters = run_and_count(p)
    self.assertEqual(counters['num_inferences'], 3)
    self.assertEqual(counters['failed_batches_counter'], 1)

  def test_keyed_elements_keep_their_keys(self):
    with self._pipeline() as p:
      handler = base.KeyedModelHandler(
          _Model(min_batch_size=4, max_batch_size=4))
      results, other = (
          self._texts(p, 'a', 'bad', 'b', 'c')
          | beam.WithKeys(str.upper)
          | base.RunInference(handler).with_exception_handling(
              bisect_failed_batches=True))
      assert_that(
          results,
          equal_to([('A', 'a of 1'), ('B', 'b of 2'), ('C', 'c of 2')]))
      assert_that(
          other.failed_inferences | beam.Map(lambda failed: failed[0]),
          equal_to([[('BAD', 'bad')]]),
          label='failed')

  def test_rows_of_ml_transform(self):
    rows = [{'x': 'a'}, {'x': 'b', 'y': 1}, {'x': 'bad'}, {'x': 'c'}]
    with self._pipeline() as p, tempfile.TemporaryDirectory() as location:
      embedded, failed = self._texts(p, *rows) | MLTransform(
          write_artifact_location=location).with_transform(
              Embeddings(_Model(min_batch_size=4))).with_exception_handling(
                  bisect_failed_batches=True)
      # A row with another column is no neighbour, but not bad by itself.
      assert_that(
          embedded,
          equal_to([{
              'x': 'a of 1'
          }, {
              'x': 'b of 1', 'y': 1
          }, {
              'x': 'c of 1'
          }]))
      assert_that(
          failed | beam.Map(lambda row: row.element),
          equal_to([[{
              'x': 'bad'
          }]]),
          label='failed')


if __name__ == '__main__':
  unittest.main()
