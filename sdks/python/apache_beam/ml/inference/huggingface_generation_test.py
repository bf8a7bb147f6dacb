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

import dataclasses
import pickle
import unittest

import numpy as np

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference
from apache_beam.ml.inference.iterative.session import Request
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to

try:
  import torch
  from transformers import AutoModelForCausalLM

  from apache_beam.ml.inference.huggingface_generation import HuggingFaceGenerationModelHandler
  from apache_beam.testing.inference.models import smollm2
  from apache_beam.testing.inference.models import tokenizer
except ImportError:
  raise unittest.SkipTest('PyTorch or transformers is missing.')

SMOLLM2 = smollm2()
TOKENIZER = tokenizer()
TEXT = 'The capital of France is'
MESSAGES = [{
    'role': 'system', 'content': 'Answer with one word.'
}, {
    'role': 'user', 'content': 'What is the capital of France?'
}]


@dataclasses.dataclass
class Message:
  """Has the shape of vllm_inference's OpenAIChatMessage."""
  role: str
  content: str


def handler(**kwargs):
  return HuggingFaceGenerationModelHandler(
      SMOLLM2, dtype=torch.float32, **kwargs)


def chat_ids(messages):
  return TOKENIZER.apply_chat_template(
      messages, add_generation_prompt=True, return_dict=False)


class HuggingFaceGenerationTest(unittest.TestCase):
  """Runs SmolLM2-135M-Instruct."""
  @classmethod
  def setUpClass(cls):
    cls.reference = AutoModelForCausalLM.from_pretrained(
        SMOLLM2, dtype=torch.float32)
    cls.handler = handler(num_blocks=8)
    cls.session = cls.handler.open_session()
    cls.addClassCleanup(cls.session.close)

  def generate(self, ids, tokens=12):
    with torch.no_grad():
      out = self.reference.generate(
          torch.tensor([ids]), do_sample=False, max_new_tokens=tokens)
    ids = out[0, len(ids):].tolist()
    return tuple(ids), TOKENIZER.decode(ids, skip_special_tokens=True)

  def run_batch(self, examples, session=None, **args):
    results = self.handler.run_inference(
        examples, session or self.session, {
            'max_new_tokens': 12, **args
        })
    return [result.inference for result in results]

  def test_results_are_those_of_generate(self):
    ids = TOKENIZER(TEXT)['input_ids']
    chat = chat_ids(MESSAGES)
    examples = [
        TEXT,
        ids,
        np.array(ids),
        torch.tensor(ids),
        MESSAGES, [Message(**message) for message in MESSAGES]
    ]
    expected = [ids] * 4 + [chat] * 2
    for result, prompt in zip(self.run_batch(examples), expected):
      self.assertEqual((result.token_ids, result.text), self.generate(prompt))
      self.assertEqual(result.prompt_tokens, len(prompt))
      self.assertEqual(result.completion_tokens, len(result.token_ids))

  def test_an_answer_that_ends(self):
    result, = self.run_batch([[{
        'role': 'user', 'content': 'What is the capital of France?'
    }]], max_new_tokens=32)
    self.assertEqual(result.finish_reason, 'stop')
    self.assertEqual(result.text, 'The capital of France is Paris.')
    self.assertEqual(result.token_ids[-1], TOKENIZER.eos_token_id)

  def test_a_chat_of_one_message(self):
    session = handler(chat=True, num_blocks=2).open_session()
    self.addCleanup(session.close)
    result, = self.run_batch([MESSAGES[1]['content']], session)
    self.assertEqual(result.token_ids, self.generate(chat_ids(MESSAGES[1:]))[0])

  def test_emoji_are_whole(self):
    session, text = self.session, 'Parrots: 🦜🦜🦜🦜🦜🦜🦜🦜'
    session.submit(Request('a', text, {'max_new_tokens': 12}))
    texts, delta = [], None
    while delta is None or delta.finish_reason is None:
      delta = session.poll('a', timeout=30)
      texts.append(delta.text)
    self.assertEqual(
        ''.join(texts), self.generate(TOKENIZER(text)['input_ids'])[1])
    self.assertIn('🦜', texts)
    self.assertNotIn('\ufffd', ''.join(texts[:-1]))

  def test_in_a_pipeline(self):
    texts = [TEXT, 'Beam is']
    expected = [(text, self.generate(TOKENIZER(text)['input_ids'])[1], SMOLLM2)
                for text in texts]
    with TestPipeline() as p:
      results = p | beam.Create(texts) | RunInference(
          handler(num_blocks=8), inference_args={'max_new_tokens': 12})
      assert_that(
          results
          | beam.Map(lambda r: (r.example, r.inference.text, r.model_id)),
          equal_to(expected))


class HuggingFaceGenerationModelHandlerTest(unittest.TestCase):
  def test_is_pickled_without_a_model(self):
    made = handler(chat=True, num_blocks=2, env_vars={'A': 'b'})
    data = pickle.dumps(made)
    self.assertLess(len(data), 2000)
    self.assertEqual(vars(pickle.loads(data)), vars(made))

  def test_wrong_arguments(self):
    for args, error, message in (
        ({'device': 'TPU'}, ValueError, "device='TPU'.: must be one of 'CPU'"),
        ({'attention': 'x'}, ValueError, "attention='x'.: must be one of"),
        ({'do_sample': None}, ValueError, 'do_sample=None.: must be one of'),
        ({'chat': 'yes'}, ValueError, "chat='yes'.: must be one of False"),
        ({'num_blocks': 0}, ValueError, 'num_blocks=0.: must be at least 1'),
        ({'page_size': 3}, ValueError, 'page_size=3.: must be at least 4'),
        ({'max_batch_tokens': 1.5}, TypeError, '=1.5.: must be an int'),
        ({'large_model': True}, TypeError, 'large_model')):
      with self.subTest(args), self.assertRaisesRegex(error, message):
        handler(**args)
    with self.assertRaisesRegex(TypeError, 'name of a model or of a folder'):
      HuggingFaceGenerationModelHandler(object())

  def test_wrong_prompts(self):
    for prompt, message in (
        ('', 'the prompt is empty'),
        ([], 'the prompt is empty'),
        (7, 'not int'),
        (b'bytes', 'not bytes'),
        ([1, 'a'], "must hold token ids, all int, or messages .* not 1"),
        ([True], 'not True'),
        (np.zeros((1, 2)), 'must hold token ids'),
        ([{'role': 'user'}], 'must hold token ids, all int, or messages'),
        ([Message('user', None)], "'content', both str")):
      with self.subTest(prompt), self.assertRaisesRegex(ValueError, message):
        handler().prompt_of(prompt)

  def test_inference_args_are_checked_when_the_transform_is_built(self):
    with self.assertRaisesRegex(ValueError, 'max_tokens is not known'):
      _ = TestPipeline() | beam.Create(['a']) | RunInference(
          handler(), inference_args={'max_tokens': 1})
    handler(do_sample=True).validate_inference_args({'top_p': 0.9})
    with self.assertRaisesRegex(ValueError, 'top_p has no effect'):
      handler().validate_inference_args({'top_p': 0.9})

  def test_another_model(self):
    made = handler()
    made.update_model_path(None)
    self.assertEqual(made.session_model_id(), SMOLLM2)
    made.update_model_path('other')
    self.assertEqual(made.session_model_id(), 'other')

  def test_a_model_that_does_not_exist(self):
    with self.assertRaisesRegex(OSError, '/no/model'):
      HuggingFaceGenerationModelHandler('/no/model').open_session()

  def test_a_cache_that_does_not_fit(self):
    with self.assertRaises(MemoryError):
      handler(num_blocks=10**9).open_session()


if __name__ == '__main__':
  unittest.main()
