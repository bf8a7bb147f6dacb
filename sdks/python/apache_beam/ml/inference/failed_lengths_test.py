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

import math
import unittest

import apache_beam as beam
from apache_beam.ml.inference import base
from apache_beam.ml.inference import failed_lengths_test
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.transforms.batching.options import BatchingOptions

# What a length function may get wrong, by element.
_WRONG = {
    'none': None,
    'word': 'x',
    'nan': math.nan,
    'negative': -1,
    'huge': 1 << 62,
}


def _pipeline():
  options = PipelineOptions(['--experiments=smart_bucketing'])
  return TestPipeline(runner='FnApiRunner', options=options)


def _length(text):
  if text == 'raises':
    raise KeyError('no such token')
  return _WRONG.get(text, len(text))


class _Upper(base.ModelHandler[str, str, None]):
  def load_model(self):
    return None

  def run_inference(self, batch, model, inference_args=None):
    if 'bad' in batch:
      raise ValueError('bad')
    return [text.upper() for text in batch]


class _Counting:
  calls = 0

  @staticmethod
  def length(text):
    # Of this module, since what is pickled by value counts for itself.
    failed_lengths_test._Counting.calls += 1
    return len(text)


def _handler():
  return _Upper(batch_length_fn=_length, max_batch_size=1)


class FailedLengthsTest(unittest.TestCase):
  def test_fail_alone_as_other_failed_batches(self):
    def describe(failed):
      (failed_element, ), (error, message, _) = failed
      return failed_element, error.__name__, 'BatchElements' not in message

    texts = ['x', 'bad', 'raises', *_WRONG, 'yy']
    with _pipeline() as p:
      results, other = (
          p
          | beam.Create(texts)
          | base.RunInference(_handler()).with_exception_handling())
      assert_that(results, equal_to(['X', 'YY']))
      expected = [('raises', 'KeyError', True)]
      expected += [(text, 'ValueError', True) for text in ('bad', *_WRONG)]
      assert_that(
          other.failed_inferences | beam.Map(describe),
          equal_to(expected),
          label='failed')

  def test_keyed_examples_keep_their_keys(self):
    with _pipeline() as p:
      results, other = (
          p
          | beam.Create([(1, 'x'), (2, 'none'), (3, 'yy')])
          | base.RunInference(
              base.KeyedModelHandler(_handler())).with_exception_handling())
      assert_that(results, equal_to([(1, 'X'), (3, 'YY')]))
      assert_that(
          other.failed_inferences | beam.Map(lambda failed: failed[0]),
          equal_to([[(2, 'none')]]),
          label='failed')

  def test_exc_class_is_what_the_function_raises(self):
    for exc_class, fails in ((KeyError, False), ((KeyError, TypeError), False),
                             (TypeError, True)):
      p = _pipeline()
      _, other = p | beam.Create(['x', 'raises']) | base.RunInference(
          _handler()).with_exception_handling(exc_class=exc_class)
      assert_that(
          other.failed_inferences | beam.Map(lambda failed: failed[0]),
          equal_to([['raises']]))
      if fails:
        with self.assertRaisesRegex(Exception, 'no such token'):
          p.run()
      else:
        p.run()

  def test_is_measured_once(self):
    _Counting.calls = 0
    for kwargs in ({}, {'max_batch_duration_secs': 60}):
      _Counting.calls = 0
      handler = _Upper(batch_length_fn=_Counting.length, **kwargs)
      with _pipeline() as p:
        results, _ = p | beam.Create(['x', 'yy']) | base.RunInference(
            handler).with_exception_handling()
        assert_that(results, equal_to(['X', 'YY']))
      self.assertEqual(2, _Counting.calls)

  def test_a_refused_element_fails_alone(self):
    handler = _Upper(batch_length_fn=len)
    options = BatchingOptions(max_padded_size=2, oversized='refuse')
    with _pipeline() as p:
      results, other = (
          p
          | beam.Create(['x', 'yyy'])
          | base.RunInference(
              handler, batching_options=options).with_exception_handling())
      assert_that(results, equal_to(['X']))
      assert_that(
          other.failed_inferences | beam.Map(lambda failed: failed[0]),
          equal_to([['yyy']]),
          label='failed')

  def test_without_exception_handling_the_error_names_the_element(self):
    for text, message in (('raises', "failed for the element 'raises'"),
                          ('huge', "returned 4611686018427387904 .*'huge'")):
      with self.assertRaisesRegex(Exception, f'length_fn {message}'):
        with _pipeline() as p:
          _ = p | beam.Create([text]) | base.RunInference(_handler())


if __name__ == '__main__':
  unittest.main()
