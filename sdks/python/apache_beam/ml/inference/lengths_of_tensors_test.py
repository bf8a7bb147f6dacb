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

"""Tensors are grouped by length without a batch_length_fn."""

import os
import tempfile
import unittest

import apache_beam as beam
from apache_beam.ml.inference import base
from apache_beam.ml.inference.padding import PaddingOptions
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.transforms.batching.options import BatchingOptions
from apache_beam.transforms.batching.policy.least_cost import Cost

try:
  import torch

  from apache_beam.ml.inference.huggingface_inference import HuggingFaceModelHandlerKeyedTensor
  from apache_beam.ml.inference.huggingface_inference import HuggingFaceModelHandlerTensor
  from apache_beam.ml.inference.pytorch_inference import PytorchModelHandlerKeyedTensor
  from apache_beam.ml.inference.pytorch_inference import PytorchModelHandlerTensor
except ImportError:
  raise unittest.SkipTest('PyTorch and transformers are not installed.')

_LENGTHS = [9, 1, 8, 2]
# Given, since a first call that loads a model on a busy machine takes longer
# than a batch should.
_OPTIONS = BatchingOptions(cost=Cost(fixed=64, per_token=1))
# Each with its partner's padding; in the order of arrival 1 and 2 would be
# padded to 9 and 8.
_GROUPED = [(9, [2, 9]), (8, [2, 9]), (1, [2, 2]), (2, [2, 2])]


class _Shape(torch.nn.Module):
  """Answers each example with the shape of the batch it is in."""
  def __init__(self):
    super().__init__()
    self.weight = torch.nn.Parameter(torch.ones(1))

  def forward(self, x, mask=None, unused=None):
    return torch.tensor(x.shape).repeat(len(x), 1)

  @classmethod
  def from_pretrained(cls, path):
    return cls()


def _tensor(length):
  return torch.ones(length)


def _keyed_tensor(length):
  return {'x': torch.ones(length)}


def _described(result):
  """(length, shape of its batch), whatever the form of the result."""
  key, result = result if isinstance(result, tuple) and len(
      result) == 2 else (None, result)
  example = result.example['x'] if isinstance(
      result.example, dict) else result.example
  return len(example), result.inference.tolist()


class LengthsOfTensorsTest(unittest.TestCase):
  @classmethod
  def setUpClass(cls):
    directory = tempfile.TemporaryDirectory()
    cls.addClassCleanup(directory.cleanup)
    cls.path = os.path.join(directory.name, 'model.pt')
    torch.save(_Shape().state_dict(), cls.path)

  def _handler(self, handler_class=PytorchModelHandlerTensor, **kwargs):
    # The shape of a batch depends on it.
    padding = PaddingOptions(per_token_outputs=False, verify=False)
    kwargs = {
        'padding': padding, 'min_batch_size': 2, 'max_batch_size': 2, **kwargs
    }
    if 'Pytorch' in handler_class.__name__:
      return handler_class(self.path, _Shape, **kwargs)
    keyed = handler_class is HuggingFaceModelHandlerKeyedTensor
    return handler_class(
        'model', _Shape, **({
            'framework': 'pt'
        } if keyed else {}), **kwargs)

  def _check(
      self, handler, element=_tensor, exception_handling=False, **kwargs):
    options = PipelineOptions(['--experiments=smart_bucketing'])
    with TestPipeline(runner='FnApiRunner', options=options) as p:
      if kwargs.pop('metadata', False):
        kwargs['model_metadata_pcoll'] = p | 'Model' >> beam.Create(
            [base.ModelMetadata(model_id=self.path, model_name='shape')])
      run_inference = base.RunInference(
          handler, batching_options=_OPTIONS, **kwargs)
      if exception_handling:
        run_inference = run_inference.with_exception_handling()
      results = (
          p | beam.Create([_LENGTHS]) |
          beam.FlatMap(lambda lengths: [element(length) for length in lengths])
          | run_inference)
      if exception_handling:
        results, _ = results
      assert_that(results | beam.Map(_described), equal_to(_GROUPED))

  def test_handlers_of_tensors(self):
    for handler_class, element in (
        (PytorchModelHandlerTensor, _tensor),
        (PytorchModelHandlerKeyedTensor, _keyed_tensor),
        (HuggingFaceModelHandlerTensor, _tensor),
        (HuggingFaceModelHandlerKeyedTensor, _keyed_tensor)):
      with self.subTest(handler_class.__name__):
        self._check(self._handler(handler_class), element)

  def test_keyed_and_processed_forms(self):
    pair = lambda length: ('key', _tensor(length))
    handler = self._handler()
    for name, wrapped, element in (
        ('keyed', base.KeyedModelHandler(handler), pair),
        ('maybe keyed', base.MaybeKeyedModelHandler(handler), _tensor),
        ('preprocessed', handler.with_preprocess_fn(_tensor), int),
        ('postprocessed', handler.with_postprocess_fn(lambda r: r), _tensor)):
      with self.subTest(name):
        self._check(wrapped, element)

  def test_with_exception_handling(self):
    self._check(self._handler(), exception_handling=True)

  def test_with_model_updates_and_a_model_manager(self):
    for kwargs in ({'metadata': True}, {'use_model_manager': True}):
      with self.subTest(kwargs):
        self._check(self._handler(), **kwargs)

  def test_inference_args_of_a_side_input(self):
    options = PipelineOptions(['--experiments=smart_bucketing'])
    handler = self._handler(
        padding=PaddingOptions(
            per_token_outputs=False, mask='mask', verify=False))
    with TestPipeline(runner='FnApiRunner', options=options) as p:
      args = p | 'Args' >> beam.Create([('unused', 1)])
      results = (
          p | beam.Create([_LENGTHS]) |
          beam.FlatMap(lambda lengths: [_tensor(length) for length in lengths])
          | base.RunInference(handler, inference_args=beam.pvalue.AsDict(args)))
      assert_that(results | beam.Map(_described), equal_to(_GROUPED))

  def test_models_shared_by_processes(self):
    for kwargs in ({'large_model': True}, {'model_copies': 2}):
      with self.subTest(kwargs):
        self._check(self._handler(**kwargs))

  def test_without_padding_the_order_is_kept(self):
    # The default function stacks tensors, so they are of one shape.
    handler = self._handler(padding=None)
    self.assertIsNone(handler.get_length_fn(None))


if __name__ == '__main__':
  unittest.main()
