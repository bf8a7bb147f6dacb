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

"""What a session tells transformers' continuous batching."""

# pytype: skip-file

import logging
from typing import Any

from transformers import ContinuousBatchingConfig
from transformers import GenerationConfig

from apache_beam.ml.inference.iterative.engines.huggingface.generation_args import GenerationArgs

_LOGGER = logging.getLogger(__name__)
# transformers gives it a handler of its own, which says in seven lines a session
# what is of use for its development only.
_ENGINE_LOGGER = logging.getLogger('ContinuousBatchingLogger')
if _ENGINE_LOGGER.level == logging.NOTSET:
  _ENGINE_LOGGER.setLevel(logging.WARNING)

# What a model's generation_config can set and continuous batching cannot heed,
# with the values that change nothing.
_IGNORED = {
    'repetition_penalty': 1.0,
    'no_repeat_ngram_size': 0,
    'min_length': 0,
    'min_new_tokens': 0,
    'suppress_tokens': None,
    'begin_suppress_tokens': None,
    'bad_words_ids': None,
    'forced_bos_token_id': None,
    'forced_eos_token_id': None,
    'min_p': None,
    'typical_p': 1.0,
}


def new_engine(
    model: Any,
    do_sample: bool,
    eos: frozenset[int],
    num_blocks: int,
    page_size: int,
    max_batch_tokens: int) -> Any:
  """A ContinuousBatchingManager that is not started.

  Raises:
    ValueError: if it cannot run the model.
    MemoryError: if its cache does not fit.
  """
  # Requests can only tell what is not neutral here, and tell all of it.
  sampling = {'temperature': 0.5, 'top_p': 0.5, 'top_k': 2} if do_sample else {}
  ids = sorted(eos)
  manager = model.init_continuous_batching(
      GenerationConfig(
          do_sample=do_sample,
          eos_token_id=ids or -1,
          pad_token_id=ids[0] if ids else None,
          **sampling),
      ContinuousBatchingConfig(
          num_blocks=num_blocks,
          page_size=page_size,
          max_batch_tokens=max_batch_tokens,
          per_request_processors=True,
          auto_switch_to_flash=False,
          use_async_batching=False,
          use_cuda_graph=False))
  # Makes the cache, here rather than in the engine's thread: it may not fit.
  manager.warmup()
  return manager


def sampling_args(
    args: GenerationArgs, defaults: GenerationConfig,
    vocabulary: int) -> dict[str, Any]:
  """What a request of an engine that samples tells it.

  Args:
    args: of the request.
    defaults: the model's generation_config.
    vocabulary: how many tokens the model has.
  """
  def first(*values):
    return next(value for value in values if value is not None)

  # A top_k of 0 stands for all in a generation_config.
  top_k = first(args.top_k, defaults.top_k or None, vocabulary)
  return {
      'temperature': float(first(args.temperature, defaults.temperature, 1.0)),
      'top_p': float(first(args.top_p, defaults.top_p, 1.0)),
      'top_k': min(top_k, vocabulary)
  }


def warn_of_ignored_settings(defaults: GenerationConfig):
  ignored = [
      name for name, neutral in _IGNORED.items()
      if getattr(defaults, name, None) not in (None, neutral)
  ]
  if ignored:
    _LOGGER.warning(
        "The model's generation_config sets %s, which continuous batching "
        'cannot heed: texts may differ from those of generate().',
        ', '.join(ignored))
