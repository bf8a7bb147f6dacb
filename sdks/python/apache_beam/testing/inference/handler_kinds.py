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

"""Kinds of model handlers, and elements for them, for the differential test.

A new kind is one line of KINDS.
"""

# pytype: skip-file

import dataclasses
import functools
import os
import pickle
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx.parser
import torch
import transformers
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

import apache_beam as beam
from apache_beam.ml.inference.base import ModelHandler
from apache_beam.ml.inference.base import PredictionResult
from apache_beam.ml.inference.base import RunInference
from apache_beam.ml.inference.huggingface_inference import HuggingFaceModelHandlerKeyedTensor
from apache_beam.ml.inference.huggingface_inference import HuggingFaceModelHandlerTensor
from apache_beam.ml.inference.huggingface_inference import HuggingFacePipelineModelHandler
from apache_beam.ml.inference.onnx_inference import OnnxModelHandlerNumpy
from apache_beam.ml.inference.padding import PaddingOptions
from apache_beam.ml.inference.pytorch_inference import PytorchModelHandlerKeyedTensor
from apache_beam.ml.inference.pytorch_inference import PytorchModelHandlerTensor
from apache_beam.ml.inference.pytorch_inference import make_tensor_model_fn
from apache_beam.ml.inference.sklearn_inference import SklearnModelHandlerNumpy
from apache_beam.ml.transforms.base import MLTransform
from apache_beam.ml.transforms.embeddings.huggingface import SentenceTransformerEmbeddings

_folder = tempfile.TemporaryDirectory()
_WORDS = ['hello', 'there', 'a', 'pipeline', 'of', 'words', 'zq']
_VOCAB = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *_WORDS]
_SMALL = dict(
    vocab_size=len(_VOCAB),
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=64)


@dataclasses.dataclass(frozen=True)
class Kind:
  """A kind of handler.

  Args:
    make: a handler, from the keyword arguments that all take for batching.
    good: elements that the model has a result for, with any neighbours.
    bad: elements that it fails for, alone too; None if there are none.
    batches: whether it takes the arguments of batching; else its elements do
      not wait across bundles.
    transform: what runs it.
  """
  make: Callable[..., Any]
  good: st.SearchStrategy
  bad: st.SearchStrategy | None = None
  batches: bool = True
  transform: Callable[[Any], beam.PTransform] = RunInference


class _Own(ModelHandler):
  """A user's handler: the length of a text, its letters and its end."""
  def load_model(self):
    return None

  def run_inference(self, batch, model, inference_args=None):
    return [PredictionResult(x, (len(x), x + '!')) for x in batch]


class _Knows(_Own):
  """One that derives lengths, which fails for some texts."""
  def get_length_fn(self, inference_args):
    return lambda text: len(text) // (0 if text.startswith('a') else 1)


class _Tokens(torch.nn.Module):
  """Scores each token by itself, with a sum that no padding changes."""
  def forward(self, x, mask=None):
    return {'scores': x * 2.0, 'sum': x.sum(1)}

  def total(self, x):
    return x.sum(1)


def _describe(batch, model, device, args=None, model_id=None):
  """A user's own inference_fn, which takes any form of tensors."""
  return [PredictionResult(x, f'{type(x).__name__} {x!r}') for x in batch]


@functools.cache
def _torch():
  path = os.path.join(_folder.name, 'tokens.pt')
  torch.save(_Tokens().state_dict(), path)
  return path


@functools.cache
def _hugging_face(model_class: str):
  """A folder with a small random model and a tokenizer of a few words."""
  path = os.path.join(_folder.name, model_class)
  torch.manual_seed(0)
  if 'Causal' in model_class:
    config = transformers.GPT2Config(
        vocab_size=len(_VOCAB),
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=64,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0)
  else:
    config = transformers.BertConfig(
        **_SMALL, label2id={
            'entailment': 0, 'other': 1
        })
  getattr(transformers, model_class).from_config(config).save_pretrained(path)
  _tokenizer().save_pretrained(path)
  return path


def _tokenizer():
  path = os.path.join(_folder.name, 'vocab.txt')
  with open(path, 'w', encoding='utf-8') as file:
    file.writelines(word + '\n' for word in _VOCAB)
  return transformers.BertTokenizer(path, model_max_length=64)


@functools.cache
def _sentences():
  from sentence_transformers import SentenceTransformer
  from sentence_transformers import models
  path = os.path.join(_folder.name, 'sentences')
  encoder = models.Transformer(_hugging_face('AutoModel'))
  pooling = models.Pooling(encoder.get_word_embedding_dimension())
  SentenceTransformer(modules=[encoder, pooling]).save(path)
  return path


@functools.cache
def _onnx():
  path = os.path.join(_folder.name, 'double.onnx')
  onnx.save(
      onnx.parser.parse_model(
          '<ir_version: 8, opset_import: ["" : 17]> '
          'double (float[b,t] x) => (float[b,t] y) {y = Add(x, x)}'),
      path)
  return path


@functools.cache
def _sklearn():
  path = os.path.join(_folder.name, 'linear.pickle')
  with open(path, 'wb') as file:
    pickle.dump(LinearRegression().fit(np.eye(3), [1, 2, 3]), file)
  return path


def _padded_onnx(**kwargs):
  return OnnxModelHandlerNumpy(
      _onnx(),
      providers=['CPUExecutionProvider'],
      padding=PaddingOptions(),
      **kwargs)


def _ragged(**options):
  return lambda **kwargs: PytorchModelHandlerTensor(
      _torch(), _Tokens, {}, padding=PaddingOptions(**options), **kwargs)


def _tensors_with(**handler_kwargs):
  return lambda **kwargs: PytorchModelHandlerTensor(
      _torch(), _Tokens, {}, **handler_kwargs, **kwargs)


def _pipeline(task, model_class, **load_args):
  return lambda **kwargs: HuggingFacePipelineModelHandler(
      task, _hugging_face(model_class), device='CPU', load_pipeline_args=dict(
          load_args), use_pipeline_batching=True, **kwargs)


def _embed(embeddings):
  return MLTransform(
      write_artifact_location=tempfile.mkdtemp(
          dir=_folder.name)).with_transform(embeddings)


_lengths = st.integers(1, 12)
_texts = st.text('ab c', max_size=30)
_no_texts = st.sampled_from([None, 5, 2.5, object])
_sentences_of_words = st.lists(
    st.sampled_from(_WORDS), min_size=1, max_size=12).map(' '.join)
_tensors = _lengths.map(lambda n: torch.arange(1., n + 1))
_no_tensors = st.sampled_from(
    [None, 5, 'abc', [1.0, 2.0], torch.ones(0), torch.tensor(1.), {}])
_ids = _lengths.map(lambda n: {'input_ids': torch.arange(n) % 7 + 5})
_no_ids = st.sampled_from([
    None,
    5,
    'abc', {}, {
        'input_ids': None
    }, {
        'input_ids': torch.ones(0).long()
    }
])
# What the handler can count the bytes of.
_any_tensors = st.one_of(
    _tensors,
    _lengths.map(lambda n: torch.eye(n).to_sparse()),
    st.lists(_tensors, max_size=3),
    st.lists(_tensors, max_size=3).map(tuple))

KINDS = {
    'own': Kind(_Own, _texts, _no_texts),
    'own, batch_length_fn': Kind(
        lambda **kwargs: _Own(batch_length_fn=len, **kwargs), _texts,
        _no_texts),
    'own, float lengths': Kind(
        lambda **kwargs: _Own(batch_length_fn=lambda x: len(x) / 3, **kwargs),
        _texts),
    'own, sizes': Kind(
        lambda **kwargs: _Own(
            batch_length_fn=len, element_size_fn=lambda x: len(str(x)) / 2, **
            kwargs),
        _texts),
    'own, derived lengths': Kind(_Knows, _texts, _no_texts),
    'tensors': Kind(
        _tensors_with(), st.just(torch.arange(3.)), st.just(torch.ones(0))),
    'tensors, padded': Kind(_ragged(), _tensors, _no_tensors),
    'tensors, padded left to multiples': Kind(
        _ragged(side='left', mask='mask', pad_to_multiple_of=8), _tensors),
    'tensors, a method': Kind(
        _tensors_with(
            inference_fn=make_tensor_model_fn('total'),
            padding=PaddingOptions()),
        _tensors,
        _no_tensors),
    "tensors, user's function": Kind(
        _tensors_with(inference_fn=_describe), _any_tensors, _no_texts),
    'keyed tensors, padded': Kind(
        lambda **kwargs: PytorchModelHandlerKeyedTensor(
            _torch(), _Tokens, {}, padding=PaddingOptions(), **kwargs),
        _tensors.map(lambda x: {'x': x}),
        st.sampled_from([None, {}, {
            'y': torch.ones(2)
        }, {
            'x': 5
        }])),
    'hugging face tensors': Kind(
        lambda **kwargs: HuggingFaceModelHandlerTensor(
            _hugging_face('AutoModel'), transformers.AutoModel, padding=
            PaddingOptions(), **kwargs),
        _ids.map(lambda ids: ids['input_ids']),
        _no_tensors),
    'hugging face keyed tensors': Kind(
        lambda **kwargs: HuggingFaceModelHandlerKeyedTensor(
            _hugging_face('AutoModelForTokenClassification'), transformers.
            AutoModelForTokenClassification, 'pt', padding=PaddingOptions(
            ), **kwargs),
        _ids,
        _no_ids),
    'text-classification': Kind(
        _pipeline('text-classification', 'AutoModelForSequenceClassification'),
        _sentences_of_words |
        _sentences_of_words.map(lambda text: {
            'text': text, 'text_pair': None
        }),
        _no_texts),
    'token-classification': Kind(
        _pipeline('token-classification', 'AutoModelForTokenClassification'),
        _sentences_of_words,
        _no_texts),
    'fill-mask': Kind(
        _pipeline('fill-mask', 'AutoModelForMaskedLM', top_k=2),
        _sentences_of_words.map(lambda text: text + ' [MASK]'),
        st.just('no mask')),
    'zero-shot-classification': Kind(
        _pipeline(
            'zero-shot-classification',
            'AutoModelForSequenceClassification',
            candidate_labels=['words', 'pipeline']),
        _sentences_of_words,
        st.just('')),
    'text-generation': Kind(
        _pipeline(
            'text-generation',
            'AutoModelForCausalLM',
            max_new_tokens=3,
            do_sample=False),
        _sentences_of_words,
        st.just(5)),
    'onnx': Kind(_padded_onnx, _tensors.map(lambda x: x.numpy()), _no_tensors),
    'onnx, dicts': Kind(
        _padded_onnx,
        _tensors.map(lambda x: {'x': x.numpy()}),
        st.sampled_from([None, {}, {
            'y': np.ones(2, 'float32')
        }, {
            'x': 5
        }])),
    'sklearn': Kind(
        lambda **kwargs: SklearnModelHandlerNumpy(_sklearn(), **kwargs),
        st.lists(st.integers(0, 9), min_size=3,
                 max_size=3).map(lambda numbers: np.array(numbers)),
        st.just(np.zeros(0))),
    'sentence embeddings': Kind(
        lambda max_batch_size: SentenceTransformerEmbeddings(
            _sentences(), ['x'], max_batch_size=max_batch_size),
        _sentences_of_words.map(lambda text: {
            'id': text, 'x': text
        }),
        st.sampled_from([{
            'id': 'bad', 'x': 5
        }, {
            'id': 'bad', 'y': 'a'
        }]),
        batches=False,
        transform=_embed),
}
