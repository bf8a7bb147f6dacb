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
import json
import threading
import time
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

from apache_beam.ml.inference.lengths import new_tokens

# Those whose tokenizer sees all of the input, and whether it always cuts it at
# what the model takes.
_TEXT_TASKS = {
    'fill-mask': False,
    'ner': True,
    'question-answering': True,
    'sentiment-analysis': False,
    'summarization': False,
    'text-classification': False,
    'text-generation': False,
    'text2text-generation': False,
    'token-classification': True,
    'zero-shot-classification': True,
}
# Where a pipeline takes arguments for its tokenizer.
_TOKENIZER_KWARGS = (
    'tokenizer_kwargs', 'tokenize_kwargs', 'tokenizer_encode_kwargs')
# Arguments of a pipeline or a model that its tokenizer takes as well.
_LOADING = (
    'cache_dir',
    'local_files_only',
    'revision',
    'token',
    'trust_remote_code',
    'use_fast')
# The organization that sentence-transformers completes short names with.
_ORGANIZATION = 'sentence-transformers'

# Texts by which a tokenizer and its Rust code are held against each other.
_PROBES = ('', 'Two words,\n\tand 10% more: naïve 中文 🙂', '<s>[CLS]</s> <pad>')

# What did not load twice is tried again after so long, not for each text.
_FAILED_SECS = 300.0

_lock = threading.Lock()
_failed: dict[tuple, tuple[int, float, Exception]] = {}


class TokenCount:
  """The number of tokens of an example.

  The example is a text, a chat (a list of messages, to which the tokenizer's
  template is applied), or a mapping or list of texts, whose tokens are added;
  what is None in it counts 0. The tokenizer is loaded in the worker, once for a
  process.

  Args:
    tokenizer: the name or folder of a model, a tokenizer of transformers, or a
      pair of a name and keyword arguments for loading it.
    loading: keyword arguments for loading it.
    longest: more tokens of a text are cut off; None for the tokenizer's
      model_max_length.
    truncates: whether texts are cut at all.
    added: the tokens that are generated for an example.
  """
  def __init__(
      self,
      tokenizer: Any,
      loading: Mapping[str, Any] | None = None,
      longest: int | None = None,
      truncates: bool = True,
      added: int = 0):
    self._tokenizer = tokenizer
    loading = dict(loading or {})
    if isinstance(tokenizer, (tuple, list)):
      self._tokenizer, own = tokenizer
      loading |= own
    self._loading = {
        name: value
        for name, value in loading.items() if name in _LOADING
    }
    self._longest = longest
    self._truncates = truncates
    self._added = added

  def __call__(self, example) -> int:
    counter, longest = self._load()
    return self._added + _count(example, counter, longest)

  def _load(self):
    """What counts tokens, and how many of a text the model sees at most."""
    if isinstance(self._tokenizer, str):
      counter = _once(_load_counter, self._tokenizer, **self._loading)
    else:
      counter = _Counter(self._tokenizer)
    if not self._truncates:
      return counter, None
    return counter, self._longest or counter.tokenizer.model_max_length


class EncoderTokenCount(TokenCount):
  """The number of tokens that a sentence encoder sees of a text.

  As sentence-transformers has it: a name without an organization is completed,
  the tokenizer may be in a folder of its own, and sentence_bert_config.json says
  how many tokens are seen; else the model's max_position_embeddings.

  Args:
    model: the name or folder of a model.
    loading: keyword arguments for loading it.
    longest: more tokens are cut off; None for what the model says.
  """
  def _load(self):
    counter, longest = _once(_load_encoder, self._tokenizer, **self._loading)
    return counter, self._longest or longest


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
  cuts = _TEXT_TASKS.get(task, False)
  if not tokenizer or not (task in _TEXT_TASKS or
                           task.startswith('translation')):
    return None
  args = dict(load_pipeline_args)
  if isinstance(inference_args, Mapping):
    args |= inference_args
  for name in _TOKENIZER_KWARGS:
    args |= args.get(name) or {}
  return TokenCount(
      tokenizer, {
          **(load_pipeline_args.get('model_kwargs') or {}),
          **load_pipeline_args
      },
      longest=args.get('max_length'),
      truncates=cuts or bool(args.get('truncation')),
      added=new_tokens(inference_args) or new_tokens(load_pipeline_args))


def of_sentence_transformer(
    model: str,
    load_model_args: Mapping[str, Any] | None,
    max_seq_length: int | None) -> Callable[[Any], int]:
  """The length of a text for a model of sentence-transformers."""
  args = load_model_args or {}
  return EncoderTokenCount(
      model, {
          'cache_dir': args.get('cache_folder'), **args
      },
      longest=max_seq_length)


class _Counter:
  """Counts the tokens of texts.

  Attributes:
    tokenizer: the one of transformers.
  """
  def __init__(self, tokenizer):
    self.tokenizer = tokenizer

  def __call__(self, text: str) -> int:
    return len(self.tokenizer(text, verbose=False)['input_ids'])


class _RustCounter(_Counter):
  """Counts without the Python around a tokenizer, which takes as long again.

  Measured: 0.29 ms for a text of 186 tokens, 0.55 with it. Nobody else may use
  the tokenizer, as each call of it sets how the Rust code cuts and pads.
  """
  def __init__(self, tokenizer):
    super().__init__(tokenizer)
    self._encode = tokenizer.backend_tokenizer.encode_batch_fast

  def __call__(self, text: str) -> int:
    return len(self._encode([text])[0])


def _count(example, counter, longest):
  if example is None:
    return 0
  if isinstance(example, str):
    count = counter(example)
    return count if longest is None else min(count, longest)
  if isinstance(example, Mapping):
    return sum(_count(text, counter, longest) for text in example.values())
  if example and all(isinstance(message, Mapping) for message in example):
    text = counter.tokenizer.apply_chat_template(
        example, tokenize=False, add_generation_prompt=True)
    return _count(text, counter, longest)
  return sum(_count(text, counter, longest) for text in example)


def _once(load: Callable, name: str, **loading):
  # One thread loads it and the others wait.
  key = (load, name, *loading.items())
  with _lock:
    times, at, error = _failed.get(key, (0, 0.0, None))
    if times > 1 and time.monotonic() - at < _FAILED_SECS:
      raise error.with_traceback(None)
    try:
      return _load_once(load, name, **loading)
    except Exception as e:
      _failed[key] = times + 1, time.monotonic(), e
      raise


@functools.lru_cache(maxsize=8)
def _load_once(load, name, **loading):
  return load(name, **loading)


def _load_counter(name: str, **loading) -> _Counter:
  # Imported here because transformers takes seconds.
  from transformers import AutoTokenizer
  tokenizer = AutoTokenizer.from_pretrained(name, **loading)
  counter = _Counter(tokenizer)
  # The first call sets padding and truncation, which no other thread may see.
  counter('')
  try:
    in_rust = _RustCounter(tokenizer)
    # A class that does more than its Rust code shows by another count.
    alike = all(in_rust(text) == counter(text) for text in _PROBES)
  except Exception:  # pylint: disable=broad-except
    return counter
  return in_rust if alike else counter


def _load_encoder(name: str, **loading):
  try:
    return _load_encoder_of(name, **loading)
  except (OSError, ValueError):
    if '/' in name:
      raise
    return _load_encoder_of(f'{_ORGANIZATION}/{name}', **loading)


def _load_encoder_of(name, **loading):
  """What counts tokens, and how many the model sees."""
  from transformers import AutoConfig
  modules = _json(name, 'modules.json', **loading) or [{}]
  folder = modules[0].get('path', '')
  counter = _load_counter(name, subfolder=folder, **loading)
  settings = _json(name, 'sentence_bert_config.json', folder, **loading) or {}
  longest = settings.get('max_seq_length')
  if not longest:
    longest = counter.tokenizer.model_max_length
    loading.pop('use_fast', None)
    try:
      config = AutoConfig.from_pretrained(name, subfolder=folder, **loading)
    except (OSError, ValueError):
      return counter, longest  # There is a tokenizer only.
    longest = min(
        longest, getattr(config, 'max_position_embeddings', None) or longest)
  return counter, longest


def _json(name, filename, subfolder='', use_fast=True, **loading):
  """What a file of a model holds, None if it has no such file."""
  from transformers.utils import cached_file
  loading.pop('trust_remote_code', None)
  path = cached_file(
      name,
      filename,
      subfolder=subfolder,
      _raise_exceptions_for_missing_entries=False,
      **loading)
  if path is None:
    return None
  with open(path, encoding='utf-8') as file:
    return json.load(file)
