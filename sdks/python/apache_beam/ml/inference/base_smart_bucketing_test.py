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

import apache_beam as beam
from apache_beam.ml.inference import base
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.transforms.batching.options import BatchingOptions

_FLAG = '--experiments=smart_bucketing'


class _BatchLengths(base.ModelHandler[str, str, None]):
  """Answers each text with the lengths of its batch."""
  def load_model(self):
    return None

  def run_inference(self, batch, model, inference_args=None):
    lengths = [len(text) for text in batch]
    return [f'{len(text)} of {lengths}' for text in batch]


def _pipeline(*flags):
  return TestPipeline(
      runner='FnApiRunner', options=PipelineOptions(list(flags)))


def _handler(**kwargs):
  return _BatchLengths(
      min_batch_size=2, max_batch_size=2, batch_length_fn=len, **kwargs)


def _texts(*lengths):
  return beam.Create(
      [None]) | beam.FlatMap(lambda _: ['x' * length for length in lengths])


class RunInferenceByLengthTest(unittest.TestCase):
  def test_batches_hold_similar_lengths(self):
    with _pipeline(_FLAG) as p:
      results = p | _texts(9, 1, 8, 2) | base.RunInference(_handler())
      assert_that(
          results,
          equal_to(['9 of [8, 9]', '8 of [8, 9]', '1 of [1, 2]',
                    '2 of [1, 2]']))

  def test_without_the_flag_arrival_order_is_kept(self):
    with _pipeline() as p:
      results = p | _texts(9, 1) | base.RunInference(_handler())
      assert_that(results, equal_to(['9 of [9, 1]', '1 of [9, 1]']))

  def test_max_padded_size(self):
    options = BatchingOptions(max_padded_size=9)
    with _pipeline(_FLAG) as p:
      results = p | _texts(9, 1, 2) | base.RunInference(
          _handler(), batching_options=options)
      assert_that(results, equal_to(['9 of [9]', '1 of [1, 2]', '2 of [1, 2]']))

  def test_results_and_failures_with_exception_handling(self):
    def fail_on_nine(text):
      if text.startswith('9'):
        raise ValueError(text)
      return text

    with _pipeline(_FLAG) as p:
      handler = _handler().with_postprocess_fn(fail_on_nine)
      results, other = (
          p | _texts(9, 1, 8, 2)
          | base.RunInference(handler).with_exception_handling())
      assert_that(
          results, equal_to(['8 of [8, 9]', '1 of [1, 2]', '2 of [1, 2]']))
      failed = other.failed_postprocessing[0] | beam.Map(lambda bad: bad[0])
      assert_that(failed, equal_to(['9 of [8, 9]']), label='failed')

  def test_batches_of_the_user_are_left_as_they_are(self):
    with _pipeline(_FLAG) as p:
      results = (
          p | beam.Create([['x' * 9, 'x', 'x' * 8]])
          | base.RunInference(_handler().with_no_batching()))
      assert_that(results, equal_to([f'{n} of [9, 1, 8]' for n in (9, 1, 8)]))

  def test_options_without_the_flag(self):
    with self.assertRaisesRegex(ValueError, 'experiments=smart_bucketing'):
      with _pipeline() as p:
        _ = p | _texts(1) | base.RunInference(
            _handler(), batching_options=BatchingOptions())

  def test_options_without_a_length_function(self):
    with self.assertRaisesRegex(ValueError, 'batch_length_fn'):
      with _pipeline(_FLAG) as p:
        _ = p | _texts(1) | base.RunInference(
            _BatchLengths(), batching_options=BatchingOptions())

  def test_options_for_a_handler_that_skips_batching(self):
    with self.assertRaisesRegex(ValueError, 'RunInference.*skips batching'):
      with _pipeline(_FLAG) as p:
        _ = p | _texts(1) | base.RunInference(
            _handler().with_no_batching(), batching_options=BatchingOptions())


if __name__ == '__main__':
  unittest.main()
