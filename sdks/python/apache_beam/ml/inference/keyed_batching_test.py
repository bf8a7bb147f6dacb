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
from apache_beam.ml.inference.keyed_batching import of_example
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


def _length_of_a_pair(pair):
  key, text = pair
  return len(text) + 0 * len(key)


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

  def test_handler_without_keys_keeps_its_function(self):
    self.assertIs(len, of_example(_BatchLengths(), len))

  def test_pairs_of_another_type(self):
    length_fn = of_example(base.KeyedModelHandler(_BatchLengths()), _length)
    self.assertEqual(2, length_fn(['key', 'xx']))

  def test_a_function_that_was_written_for_pairs(self):
    for handler in (base.KeyedModelHandler, base.MaybeKeyedModelHandler):
      length_fn = of_example(handler(_BatchLengths()), _length_of_a_pair)
      self.assertEqual(3, length_fn(('key', 'xxx')))

  def test_a_function_that_fails_for_both(self):
    length_fn = of_example(base.KeyedModelHandler(_BatchLengths()), _length)
    with self.assertRaisesRegex(TypeError, 'not an example: 5'):
      length_fn(('key', 5))

  def test_sizes_are_those_of_pairs_with_and_without_the_flag(self):
    class Handler(_BatchLengths):
      def batch_elements_kwargs(self):
        return {
            **super().batch_elements_kwargs(),
            'element_size_fn': _one_for_a_pair
        }

    handler = base.KeyedModelHandler(Handler())
    for flags in ((), (_FLAG, )):
      self._check(
          handler, [(0, 'x'), (1, 'x')], [(0, '[1, 1]'), (1, '[1, 1]')], *flags)


if __name__ == '__main__':
  unittest.main()
