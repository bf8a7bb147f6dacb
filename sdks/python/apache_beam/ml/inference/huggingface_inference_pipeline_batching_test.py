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
import tempfile
import types
import unittest

import numpy as np

import apache_beam as beam
from apache_beam.ml.inference.base import PredictionResult
from apache_beam.ml.inference.base import RunInference
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that

try:
  import torch
  from tokenizers import Tokenizer
  from tokenizers import models
  from tokenizers import pre_tokenizers
  from transformers import AutoModel
  from transformers import AutoModelForCausalLM
  from transformers import AutoModelForSequenceClassification
  from transformers import AutoModelForTokenClassification
  from transformers import BertConfig
  from transformers import GenerationConfig
  from transformers import GPT2Config
  from transformers import PreTrainedTokenizerFast

  from apache_beam.ml.inference.huggingface_inference import HuggingFacePipelineModelHandler
  from apache_beam.ml.inference.huggingface_inference import PipelineTask
  from apache_beam.ml.inference.huggingface_pipeline_batching import PipelineBatches
  from apache_beam.ml.inference.huggingface_pipeline_batching import _letters
except ImportError:
  raise unittest.SkipTest('PyTorch and transformers are not installed.')

WORDS = ['a', 'pipeline', 'reads', 'and', 'writes', 'many', 'small', 'files']
TEXTS = ['reads', 'a pipeline reads many small files and writes', 'a b', 'and']
NEW_TOKENS = 4


def make_tokenizer(**kwargs):
  vocab = {w: i for i, w in enumerate(['[PAD]', '[UNK]', '[EOS]'] + WORDS)}
  tokenizer = Tokenizer(models.WordLevel(vocab, unk_token='[UNK]'))
  tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
  return PreTrainedTokenizerFast(
      tokenizer_object=tokenizer,
      unk_token='[UNK]',
      eos_token='[EOS]',
      model_input_names=['input_ids', 'attention_mask'],
      **kwargs)


BERT = {
    'vocab_size': 16,
    'hidden_size': 32,
    'num_hidden_layers': 2,
    'num_attention_heads': 2,
    'intermediate_size': 32,
}
GPT2 = {
    'vocab_size': 16,
    'n_embd': 32,
    'n_layer': 2,
    'n_head': 2,
    'n_positions': 64,
    'bos_token_id': 2,
    'eos_token_id': 2,
}


class PipelineBatchingTest(unittest.TestCase):
  @classmethod
  def setUpClass(cls):
    directory = tempfile.TemporaryDirectory()
    cls.addClassCleanup(directory.cleanup)
    cls.directory = directory.name
    torch.manual_seed(0)
    for name, model_class, config in [
        ('features', AutoModel, BertConfig(**BERT)),
        ('classes', AutoModelForSequenceClassification, BertConfig(**BERT)),
        ('tags', AutoModelForTokenClassification, BertConfig(**BERT)),
        ('text', AutoModelForCausalLM, GPT2Config(**GPT2))]:
      model_class.from_config(config).save_pretrained(cls.path(name))
      make_tokenizer(pad_token='[PAD]').save_pretrained(cls.path(name))

  @classmethod
  def path(cls, name):
    return os.path.join(cls.directory, name)

  def handler(self, task, name, batching=True, **kwargs):
    return HuggingFacePipelineModelHandler(
        task,
        self.path(name),
        device='CPU',
        min_batch_size=len(TEXTS),
        use_pipeline_batching=batching,
        **kwargs)

  def check_pipeline(self, pipeline):
    PipelineBatches('Handler', '', {}, True).check_pipeline(pipeline)

  def run_counted(self, *handler_args, inference_args=None):
    """Returns the inferences and the batch size of each forward call."""
    handler = self.handler(*handler_args)
    pipeline = handler.load_model()
    calls = []
    pipeline.model.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(len(kwargs['input_ids'])),
        with_kwargs=True)
    results = handler.run_inference(TEXTS, pipeline, inference_args)
    self.assertEqual([r.example for r in results], TEXTS)
    return [r.inference for r in results], calls

  def test_text_classification_runs_once(self):
    batched, calls = self.run_counted('text-classification', 'classes')
    # And the shortest alone, to compare.
    self.assertEqual(calls, [4, 1])
    single, calls = self.run_counted('text-classification', 'classes', False)
    self.assertEqual(calls, [1, 1, 1, 1])
    for b, s in zip(batched, single):
      self.assertEqual(b['label'], s['label'])
      self.assertAlmostEqual(b['score'], s['score'], places=5)

  def test_token_classification_drops_the_padding(self):
    batched, calls = self.run_counted('token-classification', 'tags')
    self.assertEqual(calls, [4, 1])
    single, _ = self.run_counted('token-classification', 'tags', False)
    for b, s, text in zip(batched, single, TEXTS):
      self.assertEqual(len(b), len(text.split()))
      for tag, expected in zip(b, s):
        self.assertEqual(tag['word'], expected['word'])
        self.assertEqual(tag['entity'], expected['entity'])
        self.assertAlmostEqual(tag['score'], expected['score'], places=5)

  def test_text_generation_runs_once_for_each_new_token(self):
    args = {
        'do_sample': False,
        'max_new_tokens': NEW_TOKENS,
        'min_new_tokens': NEW_TOKENS
    }
    batched, calls = self.run_counted(
        'text-generation', 'text', inference_args=args)
    self.assertEqual(calls, [4] * NEW_TOKENS)
    single, calls = self.run_counted(
        'text-generation', 'text', False, inference_args=args)
    self.assertEqual(calls, [1] * NEW_TOKENS * len(TEXTS))
    self.assertEqual(batched, single)

  def test_lengths_of_the_generation_config_that_count_padding(self):
    for name, instead in (('max_length', 'max_new_tokens'),
                          ('min_length', 'min_new_tokens')):
      handler = self.handler('text-generation', 'text')
      pipeline = handler.load_model()
      config = getattr(pipeline, 'generation_config', None)
      config = config or pipeline.model.generation_config
      config.max_new_tokens = config.min_new_tokens = None
      config.max_length = config.min_length = None
      setattr(config, name, 20)
      args = {'do_sample': False}
      with self.assertRaisesRegex(ValueError,
                                  f'config has {name}=20, .* Pass {instead}'):
        handler.run_inference(TEXTS, pipeline, args)
      # Nothing is padded.
      if name == 'max_length':
        handler.run_inference(TEXTS[:1], pipeline, args)
      new = {'max_new_tokens': 2, 'pad_token_id': 0, instead: 2}
      for given in (new, {'generation_config': GenerationConfig(**new)}):
        handler.run_inference(TEXTS, pipeline, {**args, **given})

  def test_arrays_have_the_length_of_their_numbers(self):
    self.assertEqual([
        _letters(x) for x in (
            'abc', np.ones((2, 3)), [1.0, 2.0], {
                'raw': np.ones(5), 'sampling_rate': 16000
            }, b'ab', None)
    ], [3, 6, 2, 6, 2, 0])

  def test_in_a_pipeline(self):
    handler = self.handler('text-classification', 'classes')
    alone = dict(
        zip(
            TEXTS, self.run_counted('text-classification', 'classes',
                                    False)[0]))

    def check(results):
      assert sorted(r.example for r in results) == sorted(alone), results
      for result in results:
        expected = alone[result.example]
        assert result.inference['label'] == expected['label'], result
        assert abs(result.inference['score'] - expected['score']) < 1e-5

    with TestPipeline() as p:
      assert_that(p | beam.Create(TEXTS) | RunInference(handler), check)

  def test_custom_inference_fn_gets_the_batch_size(self):
    def inference_fn(batch, pipeline, inference_args):
      return [inference_args] * len(batch)

    for batching, expected in [(True, {'top_k': 1, 'batch_size': 2}),
                               (False, {'top_k': 1})]:
      handler = self.handler(
          'text-classification', 'classes', batching, inference_fn=inference_fn)
      args = {'top_k': 1}
      results = handler.run_inference(['a', 'b'], None, args)
      self.assertEqual(
          results,
          [PredictionResult('a', expected), PredictionResult('b', expected)])
      self.assertEqual(args, {'top_k': 1})

  def test_tokenizers_without_a_pad_token_are_refused(self):
    def load(batching):
      self.handler(
          'text-generation',
          'text',
          batching,
          load_pipeline_args={
              'tokenizer': make_tokenizer()
          }).load_model()

    with self.assertRaisesRegex(
        ValueError,
        'HuggingFacePipelineModelHandler: .*no pad token.*load_pipeline_args'):
      load(True)
    load(False)

  def test_the_remedy_for_a_missing_pad_token(self):
    tokenizer = make_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    self.handler(
        'text-generation', 'text', load_pipeline_args={
            'tokenizer': tokenizer
        }).load_model()

  def test_generation_with_padding_on_the_right_is_refused(self):
    # transformers 5 always pads these on the left, earlier versions do not.
    pipeline = types.SimpleNamespace(
        task='text-generation', tokenizer=make_tokenizer(pad_token='[PAD]'))
    pipeline.tokenizer.padding_side = 'right'
    with self.assertRaisesRegex(ValueError, "Handler: .* padding_side to 'lef"):
      self.check_pipeline(pipeline)
    pipeline.tokenizer.padding_side = 'left'
    self.check_pipeline(pipeline)

  def test_pipelines_without_a_tokenizer_are_taken(self):
    self.check_pipeline(
        types.SimpleNamespace(task='image-classification', tokenizer=None))

  def test_feature_extraction_is_refused(self):
    message = 'HuggingFacePipelineModelHandler: .*feature-extraction.*padding='
    for task in ('feature-extraction', PipelineTask.FeatureExtraction):
      with self.assertRaisesRegex(ValueError, message):
        self.handler(task, 'features')
    pipeline = self.handler('feature-extraction', 'features', False)
    with self.assertRaisesRegex(ValueError, 'Handler: .*feature-extraction'):
      self.check_pipeline(pipeline.load_model())

  def test_why_feature_extraction_is_refused(self):
    extract = self.handler('feature-extraction', 'features', False).load_model()
    alone = extract(TEXTS[:2])
    batched = extract(TEXTS[:2], batch_size=2)
    self.assertEqual([len(r[0]) for r in alone], [1, 8])
    self.assertEqual([len(r[0]) for r in batched], [8, 8])

  def test_a_second_batch_size_is_refused(self):
    message = "HuggingFacePipelineModelHandler: {} has 'batch_size'"
    with self.assertRaisesRegex(ValueError,
                                message.format('load_pipeline_args')):
      self.handler(
          'text-classification',
          'classes',
          load_pipeline_args={'batch_size': 2})

    for batching in (True, False):
      handler = self.handler('text-classification', 'classes', batching)
      p = beam.Pipeline()
      texts = p | beam.Create(TEXTS)
      transform = RunInference(handler, inference_args={'batch_size': 2})
      if not batching:
        _ = texts | transform
        continue
      with self.assertRaisesRegex(ValueError, message.format('inference_args')):
        _ = texts | transform


if __name__ == '__main__':
  unittest.main()
