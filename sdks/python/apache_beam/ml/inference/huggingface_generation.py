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

"""A ModelHandler that generates text with a Hugging Face model, step by step.

For example::

  handler = HuggingFaceGenerationModelHandler(
      'HuggingFaceTB/SmolLM2-135M-Instruct', chat=True)
  results = prompts | RunInference(
      handler, inference_args={'max_new_tokens': 64})

Each result is a PredictionResult with a ``Generation``, and all prompts of a
batch are generated for at the same time.
"""

# pytype: skip-file

import logging
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers import AutoTokenizer

from apache_beam.ml.inference.iterative import SessionModelHandler
from apache_beam.ml.inference.iterative.engines.huggingface.generation_args import GenerationArgs
from apache_beam.ml.inference.iterative.engines.huggingface.prompts import prompt_of
from apache_beam.ml.inference.iterative.engines.huggingface.session import HuggingFaceSession

__all__ = ['HuggingFaceGenerationModelHandler']

_LOGGER = logging.getLogger(__name__)

_ATTENTIONS = ('sdpa', 'eager', 'flash_attention_2', 'flash_attention_3')


class HuggingFaceGenerationModelHandler(SessionModelHandler):
  """Generates text in process, with transformers' continuous batching.

  Needs transformers 5. A prompt that arrives while others are generated for
  joins them at the next step of the model. Nothing is padded.

  An example is

  * a str: a text to continue, or with ``chat`` a message of the user,
  * the messages of a chat: a list of dicts, or of objects, with 'role' and
    'content', both str; the tokenizer's chat template is applied,
  * a list of token ids, or a one-dimensional array or tensor of them.

  inference_args are those of ``GenerationArgs``: ``max_new_tokens`` (256),
  ``stop``, ``ignore_eos``, and with ``do_sample`` also ``temperature``,
  ``top_p`` and ``top_k``, which default to the model's generation_config.
  Continuous batching has no penalties for repetition, no beams and no seeds.

  A result ends with the finish reason 'stop' at an end-of-sequence token, which
  is among the token ids but not in the text, or at a stop string, and with
  'length' at max_new_tokens or when the model's context, or the cache of
  ``num_blocks * page_size`` tokens, is full. A prompt that leaves no room in
  them for a token is an error of that prompt.

  Args:
    model: a folder, or a name on the Hugging Face Hub.
    dtype: the type of the weights, such as ``torch.float32`` or 'bfloat16';
      None: the one they were saved in.
    device: 'CPU' or 'GPU'.
    attention: the implementation, of 'sdpa', 'eager', 'flash_attention_2' and
      'flash_attention_3'; the last two need a GPU.
    do_sample: whether to draw tokens at random, or take the likeliest.
    chat: whether a str is put in the model's chat template, as a message of the
      role 'user'.
    num_blocks: the number of blocks of the engine's cache. The default holds
      16384 tokens of prompts and results together. HuggingFaceSession says how
      much memory that takes.
    page_size: the number of tokens of a block. A prompt and its result take
      whole blocks, so at most num_blocks prompts are generated for at the same
      time. Others are queued.
    max_batch_tokens: the maximum number of tokens in one step of the model.
    load_model_args: more arguments of the model's ``from_pretrained``.
    load_tokenizer_args: more arguments of the tokenizer's ``from_pretrained``.
    min_batch_size, max_batch_size, max_batch_duration_secs: of the batches
      that RunInference forms.
    env_vars: environment variables to set before the model is loaded.

  Raises:
    TypeError: if a value has the wrong type.
    ValueError: if a value is out of range.
  """
  def __init__(
      self,
      model: str,
      *,
      dtype: torch.dtype | str | None = None,
      device: str = 'CPU',
      attention: str = 'sdpa',
      do_sample: bool = False,
      chat: bool = False,
      num_blocks: int = 64,
      page_size: int = 256,
      max_batch_tokens: int = 512,
      load_model_args: dict[str, Any] | None = None,
      load_tokenizer_args: dict[str, Any] | None = None,
      min_batch_size: int | None = None,
      max_batch_size: int | None = None,
      max_batch_duration_secs: int | None = None,
      env_vars: dict[str, str] | None = None):
    super().__init__(
        min_batch_size=min_batch_size,
        max_batch_size=max_batch_size,
        max_batch_duration_secs=max_batch_duration_secs,
        env_vars=env_vars or {})
    if not isinstance(model, str) or not model:
      raise TypeError(
          f'HuggingFaceGenerationModelHandler(model={model!r}): must be the '
          'name of a model or of a folder. It is loaded on the workers.')
    for name, value, values in (
        ('device', device, ('CPU', 'GPU')),
        ('attention', attention, _ATTENTIONS),
        ('do_sample', do_sample, (False, True)),
        ('chat', chat, (False, True))):
      if value not in values:
        raise ValueError(
            f'HuggingFaceGenerationModelHandler({name}={value!r}): must be one '
            f'of {", ".join(map(repr, values))}.')
    # The engine takes no page of fewer tokens than 4.
    for name, value, least in (
        ('num_blocks', num_blocks, 1),
        ('page_size', page_size, 4),
        ('max_batch_tokens', max_batch_tokens, 1)):
      if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(
            f'HuggingFaceGenerationModelHandler({name}={value!r}): must be an '
            'int.')
      if value < least:
        raise ValueError(
            f'HuggingFaceGenerationModelHandler({name}={value!r}): must be at '
            f'least {least}.')
    self._model = model
    self._dtype = dtype
    self._device = device
    self._attention = attention
    self._session_args = {
        'do_sample': do_sample,
        'chat': chat,
        'num_blocks': num_blocks,
        'page_size': page_size,
        'max_batch_tokens': max_batch_tokens,
    }
    self._load_model_args = load_model_args or {}
    self._load_tokenizer_args = load_tokenizer_args or {}

  def open_session(self) -> HuggingFaceSession:
    """Loads the model and its tokenizer, and starts the engine.

    Raises:
      OSError: if there is no such model.
      ValueError: if continuous batching cannot run it.
      MemoryError: if the cache does not fit.
    """
    return HuggingFaceSession(*self.load(), **self._session_args)

  def load(self) -> tuple[Any, Any]:
    """Returns (model, tokenizer), as the session takes them."""
    tokenizer = AutoTokenizer.from_pretrained(
        self._model, **self._load_tokenizer_args)
    model = AutoModelForCausalLM.from_pretrained(
        self._model,
        **{
            'dtype': self._dtype or 'auto',
            'attn_implementation': self._attention,
            **self._load_model_args
        })
    if self._device == 'GPU':
      if torch.cuda.is_available():
        model.to('cuda')
      else:
        _LOGGER.warning(
            "HuggingFaceGenerationModelHandler specified a 'GPU' device, but "
            'GPUs are not available. Switching to CPU.')
    model.requires_grad_(False)
    return model, tokenizer

  def prompt_of(self, example: Any) -> str | list[int] | list[dict[str, str]]:
    return prompt_of(example)

  def session_model_id(self) -> str:
    return self._model

  def validate_inference_args(self, inference_args: dict[str, Any] | None):
    GenerationArgs.of(inference_args, self._session_args['do_sample'])

  def update_model_path(self, model_path: str | None = None):
    self._model = model_path or self._model

  def get_metrics_namespace(self) -> str:
    return 'BeamML_HuggingFaceGeneration'
