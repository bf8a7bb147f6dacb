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
from apache_beam.ml.inference.keyed_batching import functions_of_examples
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to

_FLAG = '--experiments=smart_bucketing'


class _BatchLengths(base.ModelHandler[str, str, None]):
  def __init__(self):
    super().__init__(
        min_batch_size=2, max_batch_size=2, batch_length_fn=_length)

  def load_model(self):
    return None

  def run_inference(self, batch, model, inference_args=None):
    return [str([len(text) for text in batch])] * len(batch)


def _length(text):
  if not isinstance(text, str):
    raise TypeError(f'not an example: {text!r}')
  return len(text)


def _one_for_a_pair(element):
  if not isinstance(element, tuple):
    raise TypeError(f'not a pair: {element!r}')
  return 1


def _pairs():
  return [(i, 'x' * length) for i, length in enumerate([9, 1, 8, 2])]


class KeyedBatchingTest(unittest.TestCase):
  def _check(self, handler, elements, expected, *flags):
    options = PipelineOptions(list(flags))
    with TestPipeline(runner='FnApiRunner', options=options) as p:
      results = (
          p | beam.Create([None]) | beam.FlatMap(lambda _: elements)
          | base.RunInference(handler))
      assert_that(results, equal_to(expected))

  def test_keyed_handler(self):
    self._check(
        base.KeyedModelHandler(_BatchLengths()),
        _pairs(), [(0, '[8, 9]'), (2, '[8, 9]'), (1, '[1, 2]'), (3, '[1, 2]')],
        _FLAG)

  def test_pre_and_postprocessing_around_a_keyed_handler(self):
    handler = base.KeyedModelHandler(_BatchLengths()).with_preprocess_fn(
        lambda pair: (str(pair[0]), pair[1])).with_postprocess_fn(
            lambda result: result[0] + result[1])
    self._check(
        handler, _pairs(), ['0[8, 9]', '2[8, 9]', '1[1, 2]', '3[1, 2]'], _FLAG)

  def test_maybe_keyed_handler(self):
    handler = base.MaybeKeyedModelHandler(_BatchLengths())
    self._check(handler, ['xx', 'x'], ['[1, 2]', '[1, 2]'], _FLAG)
    self._check(
        handler, [(0, 'xx'), (1, 'x')], [(0, '[1, 2]'), (1, '[1, 2]')], _FLAG)

  def test_handler_without_keys_keeps_its_functions(self):
    kwargs = _BatchLengths().batch_elements_kwargs()
    self.assertEqual(kwargs, functions_of_examples(_BatchLengths(), kwargs))

  def test_without_the_flag_functions_see_pairs(self):
    class Handler(_BatchLengths):
      def batch_elements_kwargs(self):
        return {'element_size_fn': _one_for_a_pair}

    handler = base.KeyedModelHandler(Handler())
    self._check(handler, [(0, 'x')], [(0, '[1]')])
    with self.assertRaisesRegex(Exception, 'not a pair'):
      self._check(handler, [(0, 'x')], [(0, '[1]')], _FLAG)


if __name__ == '__main__':
  unittest.main()
