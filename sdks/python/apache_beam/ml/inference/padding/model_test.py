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

import unittest

try:
  import torch
  from transformers import AutoModel
  from transformers import AutoModelForSequenceClassification
  from transformers import BertConfig
  from transformers import GPT2Config

  from apache_beam.ml.inference.padding import PaddingOptions
  from apache_beam.ml.inference.padding import model as models
  from apache_beam.ml.inference.padding import padded
  from apache_beam.ml.inference.pytorch_inference import make_tensor_model_fn
  from apache_beam.testing.inference.padding import CPU
  from apache_beam.testing.inference.padding import run
  from apache_beam.testing.inference.padding import run_keyed
except ImportError:
  raise unittest.SkipTest('PyTorch and transformers are not installed.')

_TOKENS = [[1, 2, 3, 4, 6, 7, 8], [5], [6, 7]]


def _bert(**config):
  torch.manual_seed(0)
  return AutoModel.from_config(
      BertConfig(
          vocab_size=30,
          hidden_size=32,
          num_hidden_layers=2,
          num_attention_heads=2,
          intermediate_size=32,
          **config)).eval()


def _classifier(**config):
  torch.manual_seed(0)
  return AutoModelForSequenceClassification.from_config(
      GPT2Config(
          vocab_size=30,
          n_embd=32,
          n_layer=2,
          n_head=2,
          n_positions=32,
          bos_token_id=1,
          eos_token_id=1,
          **config)).eval()


class Plain(torch.nn.Module):
  def forward(self, x, key_padding_mask=None):
    return x


class Any(torch.nn.Module):
  def forward(self, x, **kwargs):
    return x


class ModelTest(unittest.TestCase):
  def test_the_mask_of_a_hugging_face_model(self):
    bert = _bert()
    for model in (bert, torch.nn.DataParallel(bert), torch.compile(bert)):
      self.assertEqual(models.mask_of(model), 'attention_mask')
      self.assertTrue(models.takes(model, 'token_type_ids'))
    for model in (Plain(), Any(), None, print):
      self.assertIsNone(models.mask_of(model))
      self.assertFalse(models.takes(model, 'x'))

  def test_its_pad_token(self):
    self.assertEqual(models.pad_value_of(_bert()), ('input_ids', 0))
    self.assertEqual(
        models.pad_value_of(_classifier(pad_token_id=7)), ('input_ids', 7))
    for model in (_classifier(), Plain(), None):
      self.assertEqual(models.pad_value_of(model), (None, 0))

  def test_masks_that_the_model_does_not_look_at(self):
    for model, mask, message in (
        (_bert(), 'attn_mask', 'BertModel takes no such .* attention_mask'),
        (torch.nn.DataParallel(_bert()), 'mask', 'BertModel takes no'),
        (Plain(), 'mask', 'Plain takes .* key_padding_mask. Name the one')):
      with self.assertRaisesRegex(ValueError,
                                  f"Handler: .*'{mask}'.*{message}"):
        models.check_mask(model, mask, 'Handler')
    for model, mask in ((_bert(), 'attention_mask'), (Any(), 'any'),
                        (Plain(), 'key_padding_mask'), (None, 'any')):
      models.check_mask(model, mask, 'Handler')


class InferenceFnTest(unittest.TestCase):
  """What the model says is used."""
  def _check(self, model, inference_args=None, outputs=None, **options):
    """Results are those of each example alone."""
    batch = [torch.tensor(t) for t in _TOKENS]
    for run_batch, examples in (
        (run, batch), (run_keyed, [{'input_ids': x} for x in batch])):
      results = run_batch(
          examples, model, inference_args, verify=True, **options)
      for ids, result in zip(batch, results):
        with torch.no_grad():
          alone = model(ids[None], **(inference_args or {}))
        self.assertEqual(set(result.inference), set(outputs or alone))
        for name, output in result.inference.items():
          expected = alone[name]
          if isinstance(expected, tuple):
            self.assertEqual(len(output), len(expected))
          else:
            expected, output = (expected, ), (output, )
          for found, own in zip(output, expected):
            torch.testing.assert_close(found, own[0], rtol=0, atol=1e-4)

  def test_the_mask_is_used(self):
    for side in ('right', 'left'):
      if side == 'left':
        with self.assertRaisesRegex(ValueError, 'padding on the other side'):
          self._check(_bert(), side=side)
      else:
        self._check(_bert(), side=side)
        self._check(_bert(), side=side, pad_to_multiple_of=16)

  def test_without_the_mask_results_are_refused(self):
    with self.assertRaisesRegex(ValueError, r'mask=...\): attention_mask'):
      self._check(_bert(), mask=None)

  def test_a_misspelt_mask_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'takes no such argument'):
      self._check(_bert(), mask='attn_mask')

  def test_hidden_states_and_attentions(self):
    self._check(
        _bert(attn_implementation='eager'), {
            'output_hidden_states': True, 'output_attentions': True
        })

  def test_a_pad_token_that_the_head_looks_for(self):
    self._check(_classifier(pad_token_id=7), outputs={'logits'})
    with self.assertRaisesRegex(ValueError, 'pad_token_id of its config'):
      self._check(_classifier(pad_token_id=7), pad_value=0, outputs={'logits'})

  def test_a_cache_is_not_made_or_refused(self):
    model = _classifier(pad_token_id=7)
    self._check(model, outputs={'logits'})
    with self.assertRaisesRegex(ValueError, "'use_cache': False"):
      self._check(model, {'use_cache': True}, outputs={'logits'})

  def test_a_users_own_function_is_left_alone(self):
    seen = []

    def inference_fn(batch, model, device, inference_args, model_id):
      seen.append(dict(inference_args))
      return make_tensor_model_fn('forward')(
          batch, model, device, inference_args, model_id)

    run_batch = padded(inference_fn, PaddingOptions(verify=False), 'Handler')
    run_batch([torch.tensor(_TOKENS[1])], Any(), CPU, {}, 'id')
    self.assertEqual(seen, [{}])


if __name__ == '__main__':
  unittest.main()
