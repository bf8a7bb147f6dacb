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

import os
import pickle
import tempfile
import unittest

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

import apache_beam as beam
from apache_beam.ml.inference.base import KeyedModelHandler
from apache_beam.ml.inference.base import RunInference
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that

try:
  import torch
  from transformers import AutoModelForCausalLM
  from transformers import GPT2Config
  from transformers import LlamaConfig

  from apache_beam.ml.inference.padding import PaddingOptions
  from apache_beam.ml.inference.pytorch_inference import PytorchModelHandlerKeyedTensor
  from apache_beam.ml.inference.pytorch_inference import PytorchModelHandlerTensor
  from apache_beam.ml.inference.pytorch_inference import default_keyed_tensor_inference_fn
  from apache_beam.ml.inference.pytorch_inference import default_tensor_inference_fn
  from apache_beam.ml.inference.pytorch_inference import make_keyed_tensor_model_fn
  from apache_beam.ml.inference.pytorch_inference import make_tensor_model_fn
except ImportError:
  raise unittest.SkipTest('PyTorch and transformers are not installed.')

TOKENS = [[1, 2, 3, 4], [5], [6, 7]]


class Tagger(torch.nn.Module):
  """Gives (tokens, 3) scores, and nothing for what the mask hides."""
  def __init__(self):
    super().__init__()
    self.embedding = torch.nn.Embedding(10, 4)
    self.linear = torch.nn.Linear(4, 3)

  def forward(self, x, mask=None):
    scores = self.linear(self.embedding(x))
    return scores if mask is None else scores * mask[..., None]

  def score(self, x, mask=None):
    return self(x, mask)


def llama():
  torch.manual_seed(0)
  return AutoModelForCausalLM.from_config(
      LlamaConfig(
          vocab_size=50,
          hidden_size=32,
          intermediate_size=64,
          num_hidden_layers=2,
          num_attention_heads=4,
          num_key_value_heads=2,
          use_cache=False)).eval()


def gpt2():
  torch.manual_seed(0)
  return AutoModelForCausalLM.from_config(
      GPT2Config(
          vocab_size=50,
          n_embd=32,
          n_layer=2,
          n_head=4,
          n_positions=64,
          bos_token_id=1,
          eos_token_id=1,
          use_cache=False)).eval()


def check_tagger_results(model, tensor_of):
  def check(results):
    assert len(results) == len(TOKENS), results
    for result in results:
      x = tensor_of(result.example)
      torch.testing.assert_close(result.inference, model(x[None]).detach()[0])

  return check


class HandlerTest(unittest.TestCase):
  def setUp(self):
    directory = tempfile.TemporaryDirectory()
    self.addCleanup(directory.cleanup)
    self.path = os.path.join(directory.name, 'model.pt')
    torch.manual_seed(0)
    self.model = Tagger()
    torch.save(self.model.state_dict(), self.path)
    self.tensors = [torch.tensor(t) for t in TOKENS]
    self.args = {'state_dict_path': self.path, 'model_class': Tagger}

  def test_tensors_in_a_pipeline(self):
    for options in [PaddingOptions(), PaddingOptions(mask='mask', side='left')]:
      handler = PytorchModelHandlerTensor(
          **self.args, min_batch_size=3, padding=options)
      with TestPipeline() as p:
        results = p | beam.Create(self.tensors) | RunInference(handler)
        assert_that(results, check_tagger_results(self.model, lambda x: x))

  def test_keyed_tensors_in_a_pipeline(self):
    handler = PytorchModelHandlerKeyedTensor(
        **self.args, min_batch_size=3, padding=PaddingOptions(mask='mask'))
    with TestPipeline() as p:
      results = (
          p
          | beam.Create([{
              'x': x
          } for x in self.tensors])
          | RunInference(handler))
      assert_that(results, check_tagger_results(self.model, lambda e: e['x']))

  def test_keyed_model_handler(self):
    handler = KeyedModelHandler(
        PytorchModelHandlerTensor(
            **self.args, min_batch_size=3, padding=PaddingOptions()))

    def check(results):
      assert sorted(key for key, _ in results) == [0, 1, 2], results
      for key, result in results:
        assert result.example.tolist() == TOKENS[key], result
        assert result.inference.shape == (len(TOKENS[key]), 3), result

    with TestPipeline() as p:
      assert_that(
          p
          | beam.Create(list(enumerate(self.tensors)))
          | RunInference(handler),
          check)

  def test_methods_of_the_model(self):
    for options in [PaddingOptions(), PaddingOptions(mask='mask')]:
      handler = PytorchModelHandlerTensor(
          **self.args,
          inference_fn=make_tensor_model_fn('score'),
          padding=options)
      results = handler.run_inference(self.tensors, self.model)
      self.assertEqual([len(r.inference) for r in results], [4, 1, 2])

      handler = PytorchModelHandlerKeyedTensor(
          **self.args,
          inference_fn=make_keyed_tensor_model_fn('score'),
          padding=options)
      results = handler.run_inference([{
          'x': x
      } for x in self.tensors],
                                      self.model)
      self.assertEqual([len(r.inference) for r in results], [4, 1, 2])

  def test_without_options_the_function_is_untouched(self):
    self.assertIs(
        PytorchModelHandlerTensor(**self.args)._inference_fn,
        default_tensor_inference_fn)
    self.assertIs(
        PytorchModelHandlerKeyedTensor(**self.args)._inference_fn,
        default_keyed_tensor_inference_fn)
    with self.assertRaisesRegex(RuntimeError, 'equal size'):
      PytorchModelHandlerTensor(**self.args).run_inference(
          self.tensors, self.model)

  def test_handlers_pickle(self):
    handler = pickle.loads(
        pickle.dumps(
            PytorchModelHandlerTensor(**self.args, padding=PaddingOptions())))
    results = handler.run_inference(self.tensors, self.model)
    self.assertEqual([len(r.inference) for r in results], [4, 1, 2])

  def test_wrong_options_are_refused_at_construction(self):
    with self.assertRaisesRegex(TypeError, 'PytorchModelHandlerTensor: pad'):
      PytorchModelHandlerTensor(**self.args, padding={'side': 'left'})
    with self.assertRaisesRegex(TypeError, 'PytorchModelHandlerKeyedTensor: '):
      PytorchModelHandlerKeyedTensor(**self.args, padding=True)
    with self.assertRaisesRegex(ValueError,
                                'PytorchModelHandlerTensor: .*keys'):
      PytorchModelHandlerTensor(
          **self.args, padding=PaddingOptions(sequence_keys=('x', )))

  def test_mask_among_inference_args_is_refused_when_the_pipeline_is_built(
      self):
    options = PaddingOptions(mask='mask')
    for handler in (PytorchModelHandlerTensor(**self.args, padding=options),
                    PytorchModelHandlerKeyedTensor(**self.args,
                                                   padding=options)):
      with self.assertRaisesRegex(ValueError, "inference_args has 'mask'"):
        p = beam.Pipeline()
        _ = (
            p
            | beam.Create([1])
            | RunInference(handler, inference_args={'mask': 1}))


def alone(model, tokens):
  with torch.no_grad():
    return model(torch.tensor([tokens])).logits[0]


class DecoderTest(unittest.TestCase):
  """Decoders give each prompt the logits it has alone."""
  @classmethod
  def setUpClass(cls):
    cls.llama = llama()
    cls.gpt2 = gpt2()

  def check(self, model, tokens, results):
    for example, result in zip(tokens, results):
      torch.testing.assert_close(
          result.inference['logits'], alone(model, example), rtol=0, atol=1e-5)

  @settings(deadline=None, max_examples=30)
  @given(
      st.lists(
          st.lists(st.integers(0, 49), min_size=1, max_size=12),
          min_size=1,
          max_size=5),
      st.sampled_from(['left', 'right']))
  def test_llama(self, tokens, side):
    options = PaddingOptions(side=side, mask='attention_mask', pad_value=3)
    handler = PytorchModelHandlerTensor(padding=options)
    self.check(
        self.llama,
        tokens,
        handler.run_inference([torch.tensor(t) for t in tokens], self.llama))

    handler = PytorchModelHandlerKeyedTensor(padding=options)
    batch = [{'input_ids': torch.tensor(t)} for t in tokens]
    self.check(self.llama, tokens, handler.run_inference(batch, self.llama))

  def test_absolute_positions_need_position_ids_on_the_left(self):
    handler = PytorchModelHandlerKeyedTensor(
        padding=PaddingOptions(side='left', mask='attention_mask'))
    batch = [{
        'input_ids': torch.tensor(t), 'position_ids': torch.arange(len(t))
    } for t in TOKENS]
    self.check(self.gpt2, TOKENS, handler.run_inference(batch, self.gpt2))

  def test_generation_with_padding_on_the_right_is_refused(self):
    handler = PytorchModelHandlerTensor(
        inference_fn=make_tensor_model_fn('generate'), padding=PaddingOptions())
    args = {'max_new_tokens': 2, 'pad_token_id': 0}
    with self.assertRaisesRegex(
        ValueError, r"GPT2.* generates. Pass PaddingOptions\(side='left'\)"):
      handler.run_inference([torch.tensor(t) for t in TOKENS], self.gpt2, args)
    # Nothing is padded.
    handler.run_inference([torch.tensor(TOKENS[0])], self.gpt2, args)

  def test_generated_tokens_pass_untouched(self):
    new_tokens = 5
    handler = PytorchModelHandlerTensor(
        inference_fn=make_tensor_model_fn('generate'),
        padding=PaddingOptions(side='left', mask='attention_mask'))
    args = {
        'max_new_tokens': new_tokens,
        'min_new_tokens': new_tokens,
        'do_sample': False,
        'pad_token_id': 0
    }
    for model in (self.llama, self.gpt2):
      results = handler.run_inference([torch.tensor(t) for t in TOKENS],
                                      model,
                                      args)
      for tokens, result in zip(TOKENS, results):
        expected = model.generate(
            torch.tensor([tokens]),
            attention_mask=torch.ones(1, len(tokens), dtype=torch.int64),
            **args)[0]
        longest = max(map(len, TOKENS))
        self.assertEqual(result.inference.shape, (longest + new_tokens, ))
        self.assertEqual(
            result.inference[longest - len(tokens):].tolist(),
            expected.tolist())


if __name__ == '__main__':
  unittest.main()
