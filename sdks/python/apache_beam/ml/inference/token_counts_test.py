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

import json
import os
import pickle
import tempfile
import unittest
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

import apache_beam as beam
from apache_beam.ml.inference import base
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to

try:
  import torch
  from tokenizers import Tokenizer
  from tokenizers import models
  from tokenizers import pre_tokenizers
  from transformers import AutoModelForCausalLM
  from transformers import AutoModelForSequenceClassification
  from transformers import BertConfig
  from transformers import GPT2Config
  from transformers import PreTrainedTokenizerFast

  from apache_beam.ml.inference import token_counts
  from apache_beam.ml.inference.huggingface_inference import HuggingFacePipelineModelHandler
  from apache_beam.ml.inference.huggingface_inference import PipelineTask
  from apache_beam.ml.inference.token_counts import EncoderTokenCount
  from apache_beam.ml.inference.token_counts import TokenCount
except ImportError:
  raise unittest.SkipTest('PyTorch and transformers are not installed.')

_TEMPLATE = '{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}'


def _tokenizer():
  """Words of letters, parted by spaces; the end of a text is no token."""
  vocab = {'[PAD]': 0, '[UNK]': 1, 'word': 2, 'user': 3}
  tokenizer = Tokenizer(models.WordLevel(vocab, unk_token='[UNK]'))
  tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
  return PreTrainedTokenizerFast(
      tokenizer_object=tokenizer,
      unk_token='[UNK]',
      pad_token='[PAD]',
      padding_side='left',
      chat_template=_TEMPLATE,
      model_max_length=40,
      model_input_names=['input_ids', 'attention_mask'])


def _text(words):
  return ' '.join(['word'] * words)


def _batch_shape(batch, pipeline, inference_args):
  """Answers each text with the shapes that the model saw."""
  shapes = []
  handle = pipeline.model.register_forward_pre_hook(
      lambda module, args, kwargs: shapes.append(
          tuple(kwargs['input_ids'].shape)),
      with_kwargs=True)
  list(pipeline(batch, **inference_args))
  handle.remove()
  return [shapes[0]] * len(batch)


class TokenCountTest(unittest.TestCase):
  @classmethod
  def setUpClass(cls):
    directory = tempfile.TemporaryDirectory()
    cls.addClassCleanup(directory.cleanup)
    cls.directory = directory.name
    torch.manual_seed(0)
    bert = BertConfig(
        vocab_size=8,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8)
    gpt2 = GPT2Config(
        vocab_size=8, n_embd=8, n_layer=1, n_head=2, n_positions=64)
    for name, model_class, config in [
        ('classes', AutoModelForSequenceClassification, bert),
        ('text', AutoModelForCausalLM, gpt2)]:
      model_class.from_config(config).save_pretrained(cls.path(name))
      _tokenizer().save_pretrained(cls.path(name))

  @classmethod
  def path(cls, name):
    return os.path.join(cls.directory, name)

  def handler(self, task='text-classification', name='classes', **kwargs):
    kwargs = {'use_pipeline_batching': True, **kwargs}
    return HuggingFacePipelineModelHandler(
        task, self.path(name), device='CPU', **kwargs)

  def test_forms_of_an_input(self):
    count = TokenCount(_tokenizer())
    chat = [{
        'role': 'user', 'content': _text(5)
    }, {
        'role': 'user', 'content': _text(2)
    }]
    for example, expected in (
        ('', 0), (_text(7), 7), (chat, 9),
        ({'question': _text(3), 'context': _text(4)}, 7),
        ([_text(3), _text(4)], 7),
        ({'text': _text(2), 'text_pair': None}, 2),
        ([], 0),
        (None, 0),
        (_text(41), 40)):
      self.assertEqual(count(example), expected, example)
    self.assertEqual(TokenCount(_tokenizer(), longest=9)(_text(41)), 9)
    self.assertEqual(TokenCount(_tokenizer(), truncates=False)(_text(41)), 41)

  def test_a_tokenizer_with_its_arguments(self):
    pair = (self.path('classes'), {'use_fast': True})
    handler = self.handler(load_pipeline_args={'tokenizer': pair})
    self.assertEqual(handler.get_length_fn(None)(_text(3)), 3)

  def test_counts_what_the_model_sees(self):
    for task, load_args, args, expected in (
        ('text-classification', {}, {}, 50),
        ('text-classification', {}, {'truncation': True}, 40),
        ('text-classification', {'truncation': True, 'max_length': 9}, {}, 9),
        ('text-classification',
         {'truncation': True}, {'max_length': 7}, 7),
        ('text-classification', {'truncation': True}, {'truncation': False}, 50),
        ('token-classification', {}, {}, 40),
        ('zero-shot-classification', {}, {}, 40),
        ('fill-mask',
         {}, {'tokenizer_kwargs': {'truncation': True, 'max_length': 8}}, 8),
        ('text-generation',
         {}, {'tokenizer_encode_kwargs': {'truncation': True, 'max_length': 6},
              'max_new_tokens': 5}, 11)):
      handler = self.handler(task, load_pipeline_args=load_args)
      with self.subTest(task, args=args):
        self.assertEqual(handler.get_length_fn(args)(_text(50)), expected)

  def test_a_sentence_encoder(self):
    # The tokenizer in a folder of its own, and a name without organization.
    with tempfile.TemporaryDirectory() as folder:
      cwd = os.getcwd()
      model = os.path.join(folder, 'sentence-transformers', 'short')
      inner = os.path.join(model, '0_Transformer')
      _tokenizer().save_pretrained(inner)
      BertConfig(max_position_embeddings=30).save_pretrained(inner)
      with open(os.path.join(model, 'modules.json'), 'w',
                encoding='utf-8') as file:
        json.dump([{'path': '0_Transformer'}], file)
      try:
        os.chdir(folder)
        count = EncoderTokenCount('short')
        self.assertEqual(count(_text(50)), 30)
        self.assertEqual(count(_text(5)), 5)
        self.assertEqual(EncoderTokenCount('short', longest=9)(_text(50)), 9)
      finally:
        os.chdir(cwd)
      settings = os.path.join(inner, 'sentence_bert_config.json')
      with open(settings, 'w', encoding='utf-8') as file:
        json.dump({'max_seq_length': 12}, file)
      self.assertEqual(EncoderTokenCount(model)(_text(50)), 12)

  def test_neither_a_text_nor_texts(self):
    with self.assertRaises(TypeError):
      TokenCount(_tokenizer())(5)

  def test_loads_once_in_the_worker(self):
    count = pickle.loads(pickle.dumps(TokenCount(self.path('classes'))))
    self.assertEqual(count(_text(3)), 3)
    self.assertEqual(TokenCount(self.path('classes'))(_text(4)), 4)

  def test_what_does_not_load_is_not_tried_for_each_text(self):
    count = TokenCount(self.path('nowhere'))
    with mock.patch('transformers.AutoTokenizer.from_pretrained') as load:
      load.side_effect = OSError('no such model')
      for _ in range(4):
        with self.assertRaisesRegex(OSError, 'no such model'):
          count('text')
      # A bundle that is tried again loads it.
      self.assertEqual(load.call_count, 2)
      with mock.patch.object(token_counts, '_FAILED_SECS', 0.0):
        with self.assertRaisesRegex(OSError, 'no such model'):
          count('text')
      self.assertEqual(load.call_count, 3)

  @given(st.text() | st.lists(st.sampled_from(['word', 'user', '[PAD]', '!'])))
  def test_the_rust_code_counts_the_same(self, text):
    text = text if isinstance(text, str) else ' '.join(text)
    counter = token_counts._load_counter(self.path('classes'))
    self.assertIsInstance(counter, token_counts._RustCounter)
    self.assertEqual(counter(text), len(_tokenizer()(text)['input_ids']))

  def test_a_tokenizer_that_does_more_than_its_rust_code(self):
    for name, behaviour in (
        ('Python alone', {'side_effect': AttributeError}),
        ('another count', {'return_value': mock.Mock(return_value=99)})):
      with self.subTest(name), mock.patch.object(
          token_counts, '_RustCounter', **behaviour):
        counter = token_counts._load_counter(self.path('classes'))
        self.assertEqual(counter(_text(3)), 3)

  def test_what_is_generated_is_added(self):
    for handler, args in (
        (self.handler('text-generation', 'text'), {'max_new_tokens': 5}),
        (self.handler(
            'text-generation',
            'text',
            load_pipeline_args={'max_new_tokens': 5}), None)):
      self.assertEqual(handler.get_length_fn(args)(_text(3)), 8)

  def test_a_task_by_its_enum(self):
    for task in (PipelineTask.TextClassification, 'translation_de_to_en'):
      self.assertIsNotNone(self.handler(task).get_length_fn(None))

  def test_pipelines_whose_lengths_are_not_known(self):
    for handler in (self.handler(use_pipeline_batching=False),
                    self.handler('image-classification'),
                    HuggingFacePipelineModelHandler('text-classification',
                                                    use_pipeline_batching=True),
                    HuggingFacePipelineModelHandler(
                        model=self.path('classes'),
                        use_pipeline_batching=True)):
      self.assertIsNone(handler.get_length_fn(None))

  def _check(self, handler, inference_args, expected):
    options = PipelineOptions(['--experiments=smart_bucketing'])
    with TestPipeline(runner='FnApiRunner', options=options) as p:
      results = (
          p | beam.Create([[9, 1, 8, 2]])
          | beam.FlatMap(lambda lengths: [_text(n) for n in lengths])
          | base.RunInference(handler, inference_args=inference_args)
          | beam.Map(lambda r: (len(r.example.split()), r.inference)))
      assert_that(results, equal_to(expected))

  def test_inference_args_of_a_side_input(self):
    options = PipelineOptions(['--experiments=smart_bucketing'])
    handler = self.handler(
        'text-generation',
        'text',
        inference_fn=_batch_shape,
        min_batch_size=2,
        max_batch_size=2)
    with TestPipeline(runner='FnApiRunner', options=options) as p:
      args = p | 'Args' >> beam.Create([('max_new_tokens', 2)])
      results = (
          p | beam.Create([_text(3), _text(3)])
          | base.RunInference(handler, inference_args=beam.pvalue.AsDict(args))
          | beam.Map(lambda r: r.inference))
      assert_that(results, equal_to([(2, 3)] * 2))

  def test_texts_are_grouped_by_tokens(self):
    for task, name, args in (
        ('text-classification', 'classes', None),
        ('text-generation', 'text', {'max_new_tokens': 2})):
      handler = self.handler(
          task,
          name,
          inference_fn=_batch_shape,
          min_batch_size=2,
          max_batch_size=2)
      with self.subTest(task):
        self._check(
            handler, args, [(9, (2, 9)), (8, (2, 9)), (1, (2, 2)), (2, (2, 2))])


if __name__ == '__main__':
  unittest.main()
