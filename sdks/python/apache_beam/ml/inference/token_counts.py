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

"""Lengths of texts in tokens, by the tokenizer of the model."""

# pytype: skip-file

import functools
import threading
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

from apache_beam.ml.inference.lengths import new_tokens

__all__ = ['TokenCount', 'of_pipeline', 'of_sentence_transformer']

# Those whose tokenizer sees all of the input.
_TEXT_TASKS = frozenset((
    'fill-mask',
    'ner',
    'question-answering',
    'sentiment-analysis',
    'summarization',
    'text-classification',
    'text-generation',
    'text2text-generation',
    'token-classification',
    'zero-shot-classification'))
# Arguments of a pipeline or a model that its tokenizer takes as well.
_LOADING = ('cache_dir', 'revision', 'token', 'trust_remote_code', 'use_fast')

_lock = threading.Lock()


class TokenCount:
  """The number of tokens of an example.

  The example is a text, a chat (a list of messages, to which the tokenizer's
  template is applied), or a mapping or list of texts, whose tokens are added.
  The tokenizer is loaded in the worker, once for a process.

  Args:
    tokenizer: the name or folder of a model, or a tokenizer of transformers.
    loading: keyword arguments for loading it.
    longest: more tokens of a text are cut off; the tokenizer's
      model_max_length by default.
    added: the tokens that are generated for an example.
  """
  def __init__(
      self,
      tokenizer: Any,
      loading: Mapping[str, Any] | None = None,
      longest: int | None = None,
      added: int = 0):
    self._tokenizer = tokenizer
    self._loading = {
        name: value
        for name, value in (loading or {}).items() if name in _LOADING
    }
    self._longest = longest
    self._added = added

  def __call__(self, example) -> int:
    tokenizer = self._tokenizer
    if isinstance(tokenizer, str):
      tokenizer = _load(tokenizer, **self._loading)
    longest = self._longest or tokenizer.model_max_length
    return self._added + _count(example, tokenizer, longest)


def of_pipeline(
    task: str,
    model: str,
    load_pipeline_args: Mapping[str, Any],
    inference_args: Mapping[str, Any] | None) -> Callable[[Any], int] | None:
  """The length of an input of a Hugging Face pipeline, for tasks on texts.

  max_new_tokens is added, if it is among the arguments. None if the task or the
  tokenizer is not known before the pipeline is loaded.
  """
  tokenizer = load_pipeline_args.get('tokenizer') or model
  if not tokenizer or not (task in _TEXT_TASKS or
                           task.startswith('translation')):
    return None
  return TokenCount(
      tokenizer,
      load_pipeline_args,
      added=new_tokens(inference_args) or new_tokens(load_pipeline_args))


def of_sentence_transformer(
    model: str,
    load_model_args: Mapping[str, Any] | None,
    max_seq_length: int | None) -> Callable[[Any], int]:
  """The length of a text for a model of sentence-transformers."""
  args = load_model_args or {}
  return TokenCount(
      model, {
          'cache_dir': args.get('cache_folder'), **args
      },
      longest=max_seq_length)


def _count(example, tokenizer, longest):
  if isinstance(example, str):
    tokens = tokenizer(example, verbose=False)['input_ids']
    return min(len(tokens), longest)
  if isinstance(example, Mapping):
    return sum(_count(text, tokenizer, longest) for text in example.values())
  if all(isinstance(message, Mapping) for message in example):
    text = tokenizer.apply_chat_template(
        example, tokenize=False, add_generation_prompt=True)
    return _count(text, tokenizer, longest)
  return sum(_count(text, tokenizer, longest) for text in example)


def _load(name: str, **loading):
  # One thread loads it and the others wait.
  with _lock:
    return _load_once(name, **loading)


@functools.lru_cache(maxsize=8)
def _load_once(name: str, **loading):
  # Imported here because transformers takes seconds.
  from transformers import AutoTokenizer
  tokenizer = AutoTokenizer.from_pretrained(name, **loading)
  # The first call sets padding and truncation, which no other thread may see.
  tokenizer('')
  return tokenizer
