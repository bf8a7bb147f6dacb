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

# pytype: skip-file

import tempfile
import types
import unittest

import apache_beam as beam
from apache_beam.ml.inference.base import PredictionResult
from apache_beam.ml.inference.base import RunInference
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that

try:
  import torch
  from transformers import AutoModel
  from transformers import BertConfig

  from apache_beam.ml.inference.huggingface_inference import HuggingFaceModelHandlerKeyedTensor
  from apache_beam.ml.inference.huggingface_inference import HuggingFaceModelHandlerTensor
  from apache_beam.ml.inference.padding import PaddingOptions
except ImportError:
  raise unittest.SkipTest('PyTorch and transformers are not installed.')

TOKENS = [[1, 2, 3, 4], [5], [6, 7]]
MASK = PaddingOptions(mask='attention_mask')


def check_alone(model, ids_of):
  """Checks each result against the model on its example alone."""
  def check(results):
    assert len(results) == len(TOKENS), results
    for result in results:
      with torch.no_grad():
        alone = model(ids_of(result.example)[None])
      assert set(result.inference) == set(alone)
      for name, output in result.inference.items():
        torch.testing.assert_close(output, alone[name][0], rtol=0, atol=1e-5)

  return check


class HuggingFacePaddingTest(unittest.TestCase):
  @classmethod
  def setUpClass(cls):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32)
    cls.model = AutoModel.from_config(config).eval()
    directory = tempfile.TemporaryDirectory()
    cls.addClassCleanup(directory.cleanup)
    cls.path = directory.name
    cls.model.save_pretrained(cls.path)

  def setUp(self):
    self.tensors = [torch.tensor(t) for t in TOKENS]
    self.keyed = [{'input_ids': x} for x in self.tensors]

  def tensor_handler(self, **kwargs):
    return HuggingFaceModelHandlerTensor(
        self.path, AutoModel, min_batch_size=3, **kwargs)

  def keyed_handler(self, framework='pt', **kwargs):
    return HuggingFaceModelHandlerKeyedTensor(
        self.path, AutoModel, framework, min_batch_size=3, **kwargs)

  def test_tensors_in_a_pipeline(self):
    with TestPipeline() as p:
      results = (
          p
          | beam.Create(self.tensors)
          | RunInference(self.tensor_handler(padding=MASK)))
      assert_that(results, check_alone(self.model, lambda x: x))

  def test_keyed_tensors_in_a_pipeline(self):
    with TestPipeline() as p:
      results = (
          p
          | beam.Create(self.keyed)
          | RunInference(self.keyed_handler(padding=MASK)))
      assert_that(results, check_alone(self.model, lambda e: e['input_ids']))

  def test_gpu_where_there_may_be_none(self):
    handler = self.tensor_handler(device='GPU', padding=MASK)
    results = handler.run_inference(self.tensors, handler.load_model())
    self.assertEqual([len(r.inference['last_hidden_state']) for r in results],
                     [4, 1, 2])

  def test_custom_inference_fn(self):
    def inference_fn(batch, model, device, inference_args, model_id):
      ids = torch.stack(batch)
      mask = inference_args['attention_mask']
      return [
          PredictionResult(x, (ids.shape, m.sum().item(), device), model_id)
          for x, m in zip(batch, mask)
      ]

    handler = self.tensor_handler(inference_fn=inference_fn, padding=MASK)
    results = handler.run_inference(self.tensors, None)
    self.assertEqual([r.inference for r in results],
                     [((3, 4), 4, 'CPU'), ((3, 4), 1, 'CPU'),
                      ((3, 4), 2, 'CPU')])
    self.assertEqual(results[0].model_id, self.path)

  def test_without_options_the_function_is_untouched(self):
    for make in (self.tensor_handler, self.keyed_handler):
      self.assertIsNone(make()._inference_fn)
      self.assertIs(make(inference_fn=print)._inference_fn, print)
    with self.assertRaisesRegex(RuntimeError, 'equal size'):
      self.tensor_handler().run_inference(self.tensors, self.model)

  def test_wrong_options_are_refused_at_construction(self):
    with self.assertRaisesRegex(TypeError, 'HuggingFaceModelHandlerTensor: pa'):
      self.tensor_handler(padding={'side': 'left'})
    with self.assertRaisesRegex(TypeError, 'HuggingFaceModelHandlerKeyedTenso'):
      self.keyed_handler(padding=True)

  def test_tensorflow_is_refused(self):
    # Wrong options as well: the framework is looked at first.
    for options in (MASK, True):
      with self.assertRaisesRegex(
          ValueError,
          "HuggingFaceModelHandlerKeyedTensor: padding .* framework='tf'"):
        self.keyed_handler('tf', padding=options)

    # The other handler knows its framework from the first tensor only.
    tf_tensor = types.new_class('Tensor')()
    with self.assertRaisesRegex(
        TypeError, 'HuggingFaceModelHandlerTensor: .* needs PyTorch tensors'):
      self.tensor_handler(padding=MASK).run_inference([tf_tensor], self.model)

  def test_mask_among_inference_args_is_refused_when_the_pipeline_is_built(
      self):
    for handler in (self.tensor_handler(padding=MASK),
                    self.keyed_handler(padding=MASK)):
      with self.assertRaisesRegex(ValueError, "has 'attention_mask'"):
        p = beam.Pipeline()
        _ = (
            p
            | beam.Create([1])
            | RunInference(handler, inference_args={'attention_mask': 1}))


if __name__ == '__main__':
  unittest.main()
