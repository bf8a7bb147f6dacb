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

  from apache_beam.ml.inference.huggingface_inference import HuggingFaceModelHandlerTensor
except ImportError:
  raise unittest.SkipTest('PyTorch and transformers are not installed.')


def _echo_device(batch, model, device, inference_args, model_id=None):
  return [PredictionResult(x, (device, inference_args)) for x in batch]


class HuggingFaceModelHandlerTensorTest(unittest.TestCase):
  def test_custom_inference_fn_receives_the_device(self):
    handler = HuggingFaceModelHandlerTensor(
        model_uri='unused', model_class=AutoModel, inference_fn=_echo_device)
    result, = handler.run_inference([torch.ones(2)], None, {'scale': 3})
    self.assertEqual(result.inference, ('CPU', {'scale': 3}))

  def test_get_num_bytes_counts_every_value(self):
    handler = HuggingFaceModelHandlerTensor(
        model_uri='unused', model_class=AutoModel)
    batch = [torch.zeros(3, 5, dtype=torch.int64), torch.zeros(7)]
    self.assertEqual(handler.get_num_bytes(batch), 3 * 5 * 8 + 7 * 4)

  def test_run_inference_in_a_pipeline(self):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32)
    examples = [torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6])]

    with tempfile.TemporaryDirectory() as model_dir:
      model = AutoModel.from_config(config).eval()
      model.save_pretrained(model_dir)

      def check(results):
        assert len(results) == len(examples), results
        for result in results:
          with torch.no_grad():
            alone = model(result.example[None]).pooler_output[0]
          torch.testing.assert_close(result.inference['pooler_output'], alone)

      with TestPipeline() as p:
        results = (
            p
            | beam.Create(examples)
            | RunInference(
                HuggingFaceModelHandlerTensor(
                    model_uri=model_dir, model_class=AutoModel)))
        assert_that(results, check)


if __name__ == '__main__':
  unittest.main()
