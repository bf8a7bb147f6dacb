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

import pickle
import unittest

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from apache_beam.ml.inference.base import PredictionResult

try:
  import torch

  from apache_beam.ml.inference.padding import PaddingOptions
  from apache_beam.ml.inference.padding import padded
  from apache_beam.ml.inference.padding import validate_padding_args
  from apache_beam.ml.inference.pytorch_inference import default_keyed_tensor_inference_fn
  from apache_beam.ml.inference.pytorch_inference import default_tensor_inference_fn
  from apache_beam.testing.inference.padding import CPU
  from apache_beam.testing.inference.padding import Recorder
  from apache_beam.testing.inference.padding import run
  from apache_beam.testing.inference.padding import run_keyed
  from apache_beam.testing.inference.padding import shapes
  from apache_beam.testing.inference.padding import tensors
except ImportError:
  raise unittest.SkipTest('PyTorch dependencies are not installed')


class PaddedTest(unittest.TestCase):
  def test_none_gives_the_function_itself(self):
    self.assertIs(
        padded(default_tensor_inference_fn, None, 'Handler'),
        default_tensor_inference_fn)

  def test_other_types_are_refused(self):
    with self.assertRaisesRegex(TypeError, 'Handler: padding must be a'):
      padded(default_tensor_inference_fn, True, 'Handler')

  def test_settings_for_keyed_tensors_are_refused(self):
    for options in [PaddingOptions(pad_value={}),
                    PaddingOptions(sequence_keys=('a', ))]:
      with self.assertRaisesRegex(ValueError, 'Handler: .* keyed handlers'):
        padded(default_tensor_inference_fn, options, 'Handler')

  def test_wrong_number_of_results(self):
    fn = padded(lambda batch, *_: [], PaddingOptions(), 'Handler')
    with self.assertRaisesRegex(ValueError, 'Handler: .* the 2 elements.* 0'):
      fn(tensors(1, 2), None, CPU)

  def test_results_of_another_type(self):
    fn = padded(lambda batch, *_: list(batch), PaddingOptions(), 'Handler')
    with self.assertRaisesRegex(TypeError, 'PredictionResults, not Tensor'):
      fn(tensors(1, 2), None, CPU)

  def test_generators_are_taken(self):
    def inference_fn(batch, model, device, inference_args, model_id):
      for x in batch:
        yield PredictionResult(x, x * 2, model_id)

    fn = padded(inference_fn, PaddingOptions(), 'Handler')
    results = fn(tensors(1, 3), None, CPU, {}, 'id')
    self.assertEqual([r.inference.tolist() for r in results], [[2], [2, 4, 6]])
    self.assertEqual([r.model_id for r in results], ['id', 'id'])

  def test_pickles_without_what_it_found_out(self):
    fn = padded(default_tensor_inference_fn, PaddingOptions(), 'Handler')
    model = Recorder(lambda x: x)
    for _ in range(2):
      self.assertEqual(
          shapes(fn(tensors(2, 5), model, CPU, {})), [(2, ), (5, )])
      self.assertEqual(len(model.calls), 2)
      fn(tensors(2, 5), model, CPU, {})
      self.assertEqual(len(model.calls), 3)
      model.calls.clear()
      fn = pickle.loads(pickle.dumps(fn))

  def test_mask_among_the_inference_args(self):
    fn = padded(
        default_tensor_inference_fn, PaddingOptions(mask='m'), 'Handler')
    with self.assertRaisesRegex(ValueError, "Handler: inference_args has 'm'"):
      validate_padding_args(fn, {'m': 1})
    with self.assertRaisesRegex(ValueError, "Handler: inference_args has 'm'"):
      fn(tensors(2), Recorder(), CPU, {'m': 1})
    validate_padding_args(fn, None)
    validate_padding_args(default_tensor_inference_fn, {'m': 1})

  def test_tensors_fail_without_padding(self):
    with self.assertRaisesRegex(RuntimeError, 'equal size'):
      default_tensor_inference_fn(tensors(2, 3), Recorder(), CPU, {})

  def test_keyed_tensors_fail_without_padding(self):
    batch = [{'x': x} for x in tensors(1, 3)]
    with self.assertRaisesRegex(RuntimeError, 'equal size'):
      default_keyed_tensor_inference_fn(batch, Recorder(), CPU, {})

  def test_results_hold_the_original_examples(self):
    batch = tensors(1, 3)
    results = run(batch, Recorder(), mask='mask')
    for example, result in zip(batch, results):
      self.assertIs(result.example, example)
      self.assertIsInstance(result, PredictionResult)
      self.assertEqual(result.model_id, 'id')

  def test_mask_is_on_the_device_of_the_handler(self):
    def inference_fn(batch, model, device, inference_args, model_id):
      return [PredictionResult(x, inference_args['m'].device) for x in batch]

    fn = padded(inference_fn, PaddingOptions(mask='m'), 'Handler')
    gpu = 'cuda' if torch.cuda.is_available() else 'cpu'
    for device, expected in [(CPU, 'cpu'), ('CPU', 'cpu'), ('GPU', gpu),
                             (torch.device('meta'), 'meta')]:
      result, = fn(tensors(2), None, device, {}, None)
      self.assertEqual(result.inference.type, expected)


class MeanPool(torch.nn.Module):
  def __init__(self):
    super().__init__()
    self.embedding = torch.nn.Embedding(20, 6)

  def forward(self, x, mask):
    weights = mask[..., None].float()
    return (self.embedding(x) * weights).sum(1) / weights.sum(1)


class PerToken(torch.nn.Module):
  def __init__(self):
    super().__init__()
    self.embedding = torch.nn.Embedding(20, 6)
    self.linear = torch.nn.Linear(6, 5)

  def forward(self, x):
    return self.linear(self.embedding(x))


class BatchIndependenceTest(unittest.TestCase):
  """A result is what the example gives alone, without padding."""

  batches = st.lists(
      st.lists(st.integers(0, 19), min_size=1, max_size=9),
      min_size=1,
      max_size=6)
  sides = st.sampled_from(['right', 'left'])

  def setUp(self):
    torch.manual_seed(0)

  def check(self, model, tokens, alone, **options):
    batch = [torch.tensor(t) for t in tokens]
    results = run(batch, model, **options)
    with torch.no_grad():
      for example, result in zip(batch, results):
        self.assertIs(result.example, example)
        torch.testing.assert_close(
            result.inference, alone(example[None])[0], rtol=0, atol=1e-5)

  @settings(deadline=None)
  @given(batches, sides, st.integers(0, 19))
  def test_masked_mean(self, tokens, side, value):
    model = MeanPool()
    self.check(
        model,
        tokens, lambda x: model(x, torch.ones_like(x)),
        side=side,
        mask='mask',
        pad_value=value)

  @settings(deadline=None)
  @given(batches, sides, st.integers(0, 19))
  def test_per_token(self, tokens, side, value):
    model = PerToken()
    self.check(model, tokens, model, side=side, pad_value=value)

  @settings(deadline=None)
  @given(batches, sides)
  def test_keyed_per_token_and_constant_outputs(self, tokens, side):
    per_token, mean = PerToken(), MeanPool()

    def model(x, mask):
      return {'tokens': per_token(x), 'mean': mean(x, mask)}

    batch = [{'x': torch.tensor(t)} for t in tokens]
    results = run_keyed(batch, model, side=side, mask='mask')
    with torch.no_grad():
      for example, result in zip(batch, results):
        x = example['x'][None]
        torch.testing.assert_close(
            result.inference, {
                'tokens': per_token(x)[0],
                'mean': mean(x, torch.ones_like(x))[0]
            },
            rtol=0,
            atol=1e-5)


if __name__ == '__main__':
  unittest.main()
