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

import importlib
import pickle
import sys
import unittest
from types import SimpleNamespace
from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import apache_beam as beam
from apache_beam.ml.inference import base
from apache_beam.ml.inference import lengths
from apache_beam.ml.inference.padding import PaddingOptions
from apache_beam.ml.inference.padding import padded
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.batching.options import BatchingOptions


class _KnowsLengths(base.ModelHandler[str, str, None]):
  def get_length_fn(self, inference_args):
    return len


class _Fails(base.ModelHandler[str, str, None]):
  def get_length_fn(self, inference_args):
    raise OSError('no such model')


class _DoesNotPad(base.ModelHandler[str, str, None]):
  def pads_batches(self):
    return False


def _known(handler, options=None):
  return lengths.of_handler(handler, None, options, 'RunInference')


class KnownLengthTest(unittest.TestCase):
  def test_wrapped_handlers_know_what_the_inner_one_knows(self):
    inner = _KnowsLengths()
    for handler in (inner,
                    base.KeyedModelHandler(inner),
                    base.MaybeKeyedModelHandler(inner),
                    inner.with_preprocess_fn(str).with_postprocess_fn(str),
                    base.KeyedModelHandler(inner).with_preprocess_fn(str)):
      length_fn, source = _known(handler)
      keyed = 'Keyed' in type(handler).__name__ + type(
          getattr(handler, '_base', None)).__name__
      self.assertEqual(3, length_fn(('key', 'abc') if keyed else 'abc'))
      self.assertEqual(source, 'the lengths that _KnowsLengths knows')

  def test_several_models_know_nothing(self):
    mappings = [base.KeyModelMapping(['a'], _KnowsLengths())]
    length_fn, why = _known(base.KeyedModelHandler(mappings))
    self.assertIsNone(length_fn)
    self.assertIn('KeyedModelHandler does not know', why)

  def test_batch_length_fn_wins(self):
    own = lambda text: 1
    self.assertEqual(
        _known(_KnowsLengths(batch_length_fn=own)),
        (own, 'its batch_length_fn'))

  def test_nothing_to_gain_without_padding(self):
    handler = _DoesNotPad(batch_length_fn=len, max_batch_size=4)
    self.assertEqual(
        _known(handler), (None, '_DoesNotPad does not pad its batches'))

  def test_a_handler_that_cannot_tell_is_batched_as_without_the_flag(self):
    length_fn, why = _known(_Fails())
    self.assertIsNone(length_fn)
    self.assertIn('_Fails cannot tell the lengths', why)
    self.assertIn('no such model', why)

  def test_an_example_without_a_length_is_batched_and_logged_once(self):
    length_fn = pickle.loads(pickle.dumps(_known(_KnowsLengths())[0]))
    with self.assertLogs('apache_beam.ml.inference.lengths') as logs:
      self.assertEqual([1, 1, 2], [length_fn(x) for x in (None, 5, 'ab')])
    line, = logs.output
    for wrong in (None, -1, float('nan'), '3', 1 << 62):
      with mock.patch.object(_KnowsLengths,
                             'get_length_fn',
                             lambda *_, wrong=wrong: lambda text: wrong):
        with self.assertLogs('apache_beam.ml.inference.lengths'):
          self.assertEqual(1, _known(_KnowsLengths())[0]('abc'), wrong)
    self.assertIn(
        'RunInference: _KnowsLengths cannot tell the length of the example None',
        line)

  def test_servers_and_agents_neither_pad_nor_lack_memory_here(self):
    # Neither their clients nor a server is needed to tell.
    clients = {'openai': mock.MagicMock(), 'anthropic': mock.MagicMock()}
    for module, name in (('vllm_inference', 'VLLMCompletionsModelHandler'),
                         ('vllm_inference', 'VLLMChatModelHandler'),
                         ('anthropic_inference', 'AnthropicModelHandler'),
                         ('agent_development_kit', 'ADKAgentModelHandler')):
      with self.subTest(name), mock.patch.dict(sys.modules, clients):
        imported = importlib.import_module(f'apache_beam.ml.inference.{module}')
        handler = getattr(imported, name)
        self.assertFalse(handler.pads_batches(mock.Mock()))
        self.assertFalse(handler.splits_failed_batches(mock.Mock()))

  def test_options_without_effect(self):
    for handler, message in ((_DoesNotPad(), 'does not pad.*Leave them out'),
                             (base.ModelHandler(), 'Give it a batch_length_fn')):
      pipeline = beam.Pipeline(
          options=PipelineOptions(['--experiments=smart_bucketing']))
      with self.assertRaisesRegex(ValueError, f'RunInference: .*{message}'):
        _ = pipeline | beam.Create(['a']) | base.RunInference(
            handler, batching_options=BatchingOptions())


class LengthOfTensorsTest(unittest.TestCase):
  @given(st.lists(st.integers(0, 9), max_size=3))
  def test_of_one(self, shape):
    length_fn = lengths.of_tensors(print, None, None)
    self.assertEqual(length_fn(np.empty(shape)), shape[0] if shape else 1)

  def test_of_what_an_own_inference_fn_takes(self):
    length_fn = lengths.of_tensors(print, None, None)
    for example, expected in (((np.empty(2), np.empty((5, 1))), 5),
                              ([1, 2, 3], 3), ('abc', 3), (7, 1), (None, 1),
                              ({'a': [1, 2], 'b': 3}, 2)):
      self.assertEqual(length_fn(example), expected, example)

  def test_of_multiples(self):
    for keyed in (False, True):
      fn = padded(print, PaddingOptions(pad_to_multiple_of=8), 'H', keyed=keyed)
      length_fn = lengths.of_tensors(fn, print, {'max_new_tokens': 3})
      for length, expected in ((1, 11), (8, 11), (9, 19)):
        example = np.empty(length)
        self.assertEqual(
            length_fn({'x': example} if keyed else example), expected)

  def test_of_keys(self):
    example = {
        'ids': np.empty(5), 'pixels': np.empty((7, 2)), 'id': np.empty(())
    }
    self.assertEqual(lengths.of_tensors(print, None, None)(example), 7)
    fn = padded(
        print, PaddingOptions(sequence_keys=('ids', )), 'H', keyed=True)
    self.assertEqual(lengths.of_tensors(fn, print, None)(example), 5)

  def test_tensors_of_one_shape_have_nothing_to_gain(self):
    self.assertIsNone(lengths.of_tensors(print, print, None))
    self.assertIsNone(lengths.of_tensors(None, None, None))

  def test_what_is_generated_is_added(self):
    config = SimpleNamespace(max_new_tokens=20)
    for args, expected in (({'max_new_tokens': 6}, 8),
                           ({'generation_config': config}, 22),
                           ({'max_new_tokens': 6,
                             'generation_config': config}, 8),
                           ({'generation_config': None}, 2), ({}, 2),
                           (object.__new__(beam.pvalue.AsDict), 2),
                           ({'max_new_tokens': sys.maxsize}, 2 + (1 << 20)),
                           ({'max_new_tokens': float('inf')}, 2 + (1 << 20)),
                           ({'max_new_tokens': -100}, 2)):
      self.assertEqual(
          lengths.of_tensors(print, None, args)(np.empty(2)), expected)


if __name__ == '__main__':
  unittest.main()
