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

"""Runs Hugging Face pipelines with a batch size, for what each input gives alone.

A pipeline runs its model once per input unless it is called with a batch size.
With one it pads the inputs of a batch, which not every pipeline can do without
another result.
"""

# pytype: skip-file

import logging
import math
import numbers
import threading
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

__all__ = ['PipelineBatches']

_LOGGER = logging.getLogger(__name__)

_FEATURE_EXTRACTION = 'feature-extraction'
_FILL_MASK = 'fill-mask'
_GENERATION = 'text-generation'
# Of these the batch is seen in the result, and what to use instead.
_OF_THE_BATCH = {
    'return_tensors': 'would hold the padding of the prompts',
    'return_dict_in_generate': 'would hold the steps of the longest text',
    'max_length': (
        'counts the padding of the prompts. Use max_new_tokens instead'),
    'min_length': (
        'counts the padding of the prompts. Use min_new_tokens instead'),
}
# Arguments of a text generation pipeline that hold others.
_NESTED = ('generation_config', 'generate_kwargs')
# Shorter texts are looked at for whether they have any token.
_FEW_LETTERS = 9
# Which integers of a result are compared: where an entity is.
_PLACES = frozenset(('index', 'start', 'end'))
# By how much numbers of a result may differ, as scores and logits do by rounding.
_TOLERANCE = 1e-2


class PipelineBatches:
  """Calls a pipeline with batches of inputs.

  Args:
    handler: the name of the model handler, for error messages.
    task: of the pipeline, '' if it is not known.
    load_pipeline_args: those of the handler.
    verify: whether a result is compared with that of its input alone: the
      shortest of the first batch with inputs of another length, and of later
      ones whose lengths differ twice as much.

  Raises:
    ValueError: if `load_pipeline_args` sets a batch size as well, or the results
      would depend on the batch.
  """
  def __init__(
      self,
      handler: str,
      task: str,
      load_pipeline_args: Mapping[str, Any],
      verify: bool):
    self._handler = handler
    self._task = task
    self._verify = verify
    self.check_args('load_pipeline_args', load_pipeline_args)
    self._refuse_feature_extraction(task)
    self.__setstate__(self.__dict__)

  def __getstate__(self):
    return {k: v for k, v in self.__dict__.items() if k != '_local'}

  def __setstate__(self, state):
    self.__dict__.update(state)
    # By thread: the pipeline that it saw last, and what was compared of it.
    self._local = threading.local()

  def check_args(self, parameter: str, args: Any) -> None:
    """Raises a ValueError for arguments that have no place beside a batch size.
    """
    # Those of a side input are not known before the call.
    if not isinstance(args, Mapping):
      return
    if 'batch_size' in args:
      raise ValueError(
          f"{self._handler}: {parameter} has 'batch_size', which "
          'use_pipeline_batching sets for each batch. Remove one of them; '
          'max_batch_size limits the batches.')
    if self._task not in (_GENERATION, ''):
      return
    for name, why in _OF_THE_BATCH.items():
      if args.get(name):
        self._refuse(parameter, name, why)
    if args.get('skip_special_tokens', True) is False:
      self._refuse(
          parameter, 'skip_special_tokens', 'would show the padding, if False')
    for name in _NESTED:
      nested = args.get(name)
      if nested is not None:
        self.check_args(f'{parameter}[{name!r}]', _given(nested))

  def _refuse(self, parameter, name, why):
    raise ValueError(
        f'{self._handler}: {name} in {parameter} {why}. Leave it out, or leave '
        'use_pipeline_batching out.')

  def check_pipeline(self, pipeline) -> None:
    """Checks that a loaded pipeline can pad its inputs.

    A decoder whose tokenizer pads on the left, as for generation, pads on the
    right for other tasks.

    Raises:
      ValueError: if its task returns padded positions, its tokenizer has no pad
        token, or it generates text and pads on the right.
    """
    self._refuse_feature_extraction(pipeline.task)
    tokenizer = getattr(pipeline, 'tokenizer', None)
    if tokenizer is None:
      return
    if tokenizer.pad_token_id is None:
      raise ValueError(
          f'{self._handler}: use_pipeline_batching pads the inputs of a batch, '
          'but the tokenizer of the pipeline has no pad token. Set its '
          'pad_token, for instance to its eos_token, and pass it in '
          "load_pipeline_args={'tokenizer': tokenizer}.")
    if pipeline.task != _GENERATION:
      if tokenizer.padding_side == 'left' and _is_of_decoder(pipeline.model):
        _LOGGER.info(
            '%s: the tokenizer pads on the left, as for generation. For %s it '
            'pads on the right, where positions and indices stay what they are '
            'for an input alone.',
            self._handler,
            pipeline.task)
        tokenizer.padding_side = 'right'
      return
    if tokenizer.padding_side != 'left':
      raise ValueError(
          f'{self._handler}: use_pipeline_batching needs padding on the left '
          'for text-generation, as padding on the right would come between '
          "prompt and continuation. Set the tokenizer's padding_side to 'left' "
          "and pass it in load_pipeline_args={'tokenizer': tokenizer}.")

  def run(
      self,
      batch: Sequence[Any],
      pipeline,
      inference_args: Mapping[str, Any],
      inference_fn: Callable,
      is_default: bool) -> list[Any]:
    """The result of each input of a batch.

    Args:
      batch: the inputs.
      pipeline: the pipeline of transformers.
      inference_args: of its call.
      inference_fn: calls it.
      is_default: whether that hands the inputs to the pipeline and its results
        on.

    Raises:
      ValueError: if the results depend on the batch, or the model's own
        generation config has a length that counts the padding.
    """
    self.check_args('inference_args', inference_args)

    def call(inputs):
      # The pipeline takes a tuple for one input.
      args = {**inference_args, 'batch_size': len(inputs)}
      results = inference_fn(list(inputs), pipeline, args)
      if is_default and pipeline.task == _FILL_MASK and len(inputs) == 1:
        # For one input it gives that result itself.
        results = [results]
      return results

    if not is_default:
      return call(batch)
    alone = [i for i, x in enumerate(batch) if _has_no_token(x, pipeline)]
    others = [i for i in range(len(batch)) if i not in alone]
    if len(others) > 1 and pipeline.task == _GENERATION:
      self._check_config(pipeline, inference_args)
    results = dict.fromkeys(range(len(batch)))
    for indices in [[i] for i in alone] + ([others] if others else []):
      found = list(call([batch[i] for i in indices]))
      if len(found) != len(indices):
        raise ValueError(
            f'{self._handler}: the pipeline gave {len(found)} results for '
            f'{len(indices)} inputs. Leave use_pipeline_batching out.')
      results.update(zip(indices, found))
    if self._verify and len(others) > 1:
      self._compare([batch[i] for i in others], [results[i] for i in others],
                    pipeline,
                    call)
    return list(results.values())

  def _compare(self, inputs, results, pipeline, call):
    # What is generated is random by default, and its padding was checked.
    if pipeline.task == _GENERATION:
      return
    if getattr(self._local, 'pipeline', None) is not pipeline:
      self._local.pipeline, self._local.compared = pipeline, 0.0
    lengths = [_letters(x) for x in inputs]
    shortest = lengths.index(min(lengths))
    padding = 1 - lengths[shortest] / max(1, *lengths)
    if padding <= 2 * self._local.compared:
      return
    alone, = call([inputs[shortest]])
    if _differ(results[shortest], alone):
      side = getattr(pipeline.tokenizer, 'padding_side', 'right')
      raise ValueError(
          f'{self._handler}: with use_pipeline_batching the result of '
          f'{pipeline.task} for an input depends on the inputs it is batched '
          f'with: {results[shortest]!r:.200} instead of {alone!r:.200}. The '
          f'tokenizer pads on the {side}; set its padding_side to the other '
          'side, or give the model its pad_token_id, or leave '
          'use_pipeline_batching out. Where the difference is meant, pass '
          'verify_pipeline_batching=False.')
    self._local.compared = padding

  def _check_config(self, pipeline, inference_args):
    """Refuses lengths of the model's own generation config that count padding."""
    config = getattr(pipeline, 'generation_config', None)
    if config is None:
      config = getattr(pipeline.model, 'generation_config', None)
    given: dict[str, Any] = {}
    for args in (getattr(pipeline, '_generate_kwargs', {}),
                 getattr(pipeline, '_forward_params', {}),
                 inference_args):
      for nested in _NESTED:
        given |= _given(args.get(nested) or {})
      given |= args
    for name in ('max_length', 'min_length'):
      instead = name.replace('length', 'new_tokens')
      if name not in given and getattr(config, name, None) and not any(
          value is not None
          for value in (given.get(instead), getattr(config, instead, None))):
        raise ValueError(
            f"{self._handler}: the model's own generation config has {name}="
            f'{getattr(config, name)!r}, which counts the padding of the prompts. '
            f'Pass {instead} in inference_args, or leave use_pipeline_batching '
            'out.')

  def _refuse_feature_extraction(self, task):
    # transformers returns the hidden states of the padding too, so that the
    # result for an input would depend on the longest one in its batch.
    if task == _FEATURE_EXTRACTION:
      raise ValueError(
          f'{self._handler}: use_pipeline_batching cannot be used for '
          f'{_FEATURE_EXTRACTION}, whose results would include the padding. Use '
          'HuggingFaceModelHandlerKeyedTensor with '
          "padding=PaddingOptions(mask='attention_mask').")


def _is_of_decoder(model) -> bool:
  """Whether a model counts positions from the left; XLNet does not."""
  return getattr(model.config, 'model_type', None) != 'xlnet'


def _given(config) -> Mapping[str, Any]:
  """What was set in a generation config, beside its defaults."""
  if isinstance(config, Mapping):
    return config
  difference = getattr(config, 'to_diff_dict', None)
  return difference() if difference else {}


def _has_no_token(example, pipeline) -> bool:
  """Whether the model sees nothing of a text, so that there is nothing to pad."""
  tokenizer = getattr(pipeline, 'tokenizer', None)
  if tokenizer is None or not isinstance(example,
                                         str) or len(example) > _FEW_LETTERS:
    return False
  prefix = getattr(pipeline, '_preprocess_params', {}).get('prefix') or ''
  return not tokenizer(prefix + example)['input_ids']


def _letters(example) -> int:
  """The letters of a text, or the numbers of an array."""
  if isinstance(example, (str, bytes)):
    return len(example)
  shape = getattr(example, 'shape', None)
  if shape is not None:
    return math.prod(shape)
  if isinstance(example, numbers.Number):
    return 1
  parts = example.values() if isinstance(example, Mapping) else example
  try:
    return sum(map(_letters, parts))
  except TypeError:
    return 0


def _differ(together, alone) -> bool:
  """Whether numbers of two results differ beyond rounding, or their forms."""
  if isinstance(together, Mapping) and isinstance(alone, Mapping):
    return any(
        key not in alone or
        (key in _PLACES or not isinstance(together[key], int)) and
        _differ(together[key], alone[key]) for key in together)
  if isinstance(together, (list, tuple)) and isinstance(alone, (list, tuple)):
    return len(together) != len(alone) or any(map(_differ, together, alone))
  try:
    return not math.isclose(
        together, alone, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
  except TypeError:
    # Words, which near ties make another.
    return type(together) is not type(alone)
