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

"""Lengths of examples, where a model handler knows them without being told."""

import logging
import numbers
import uuid
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from apache_beam.ml.inference import keyed_batching
from apache_beam.transforms.batching.options import BatchingOptions
from apache_beam.transforms.batching.user_functions import as_length
from apache_beam.transforms.batching.user_functions import brief

_LOGGER = logging.getLogger(__name__)
# More than the context of any model.
_MAX_NEW_TOKENS = 1 << 20
# The length functions that a process has warned of.
_WARNED: set[str] = set()


def innermost(handler):
  """The handler of one model that others wrap: keyed, pre- or post-processed.

  A keyed handler of several models is returned as it is.
  """
  # Imported here because base imports this module.
  from apache_beam.ml.inference import base
  wrappers = (
      base._PreProcessingModelHandler,
      base._PostProcessingModelHandler,
      base.KeyedModelHandler,
      base.MaybeKeyedModelHandler)
  while isinstance(handler, wrappers):
    inner = getattr(handler, '_base', getattr(handler, '_unkeyed', None))
    if inner is None:
      break
    handler = inner
  return handler


def of_handler(
    handler,
    inference_args: Mapping[str, Any] | None,
    options: BatchingOptions | None,
    owner: str) -> tuple[Callable[[Any], Any] | None, str]:
  """The length of an element of RunInference, and where it comes from.

  A batch_length_fn wins over the length that the handler knows.

  Returns:
    A function of an element, with its key if it has one; and what to call its
    lengths in a message. (None, why) where there is none.

  Raises:
    ValueError: if options are given which would have no effect.
  """
  inner = innermost(handler)
  name = type(inner).__name__
  own = handler.batch_elements_kwargs().get('length_fn')
  known, why = None, None
  if not inner.pads_batches():
    own, why = None, f'{name} does not pad its batches'
  elif own is None:
    known, why = _known(inner, inference_args)
  if why is not None:
    if options is not None:
      raise ValueError(
          f'{owner}: batching_options have no effect, because {why}. ' + (
              'Leave them out.'
              if not inner.pads_batches() else 'Give it a batch_length_fn.'))
    return None, why
  fn = own or Tolerant(known, owner, name)
  source = 'its batch_length_fn' if own else f'the lengths that {name} knows'
  return keyed_batching.of_example(handler, fn), source


def _known(handler, inference_args):
  """The length function of a handler; (None, why) where it has none."""
  name = type(handler).__name__
  try:
    known = handler.get_length_fn(inference_args)
  except Exception as e:  # pylint: disable=broad-except
    return None, f'{name} cannot tell the lengths of its examples: {e!r:.200}'
  if known is None:
    return None, f'{name} does not know the lengths of its examples'
  return known, None


class Tolerant:
  """A length that a handler derives; an element that has none counts 1.

  A length only chooses the batch of an element, so one that cannot be told is
  no reason to fail. The first in a process is logged with its reason.
  """
  def __init__(self, length_fn: Callable[[Any], int], owner: str, name: str):
    self._length_fn = length_fn
    self._owner = owner
    self._name = name
    self._id = uuid.uuid4().hex

  def __call__(self, example: Any) -> int:
    try:
      return as_length(self._length_fn(example))
    except Exception as e:  # pylint: disable=broad-except
      if self._id not in _WARNED:
        _WARNED.add(self._id)
        _LOGGER.warning(
            '%s: %s cannot tell the length of the example %s (%r), which is '
            'batched without one, as others like it will be. A batch_length_fn '
            'can say what counts.',
            self._owner,
            self._name,
            brief(example),
            e)
      return 1


def new_tokens(inference_args: Mapping[str, Any] | None) -> int:
  """The most tokens that are generated for an example, 0 if none is named.

  Args:
    inference_args: those of the model's `generate`; max_new_tokens is looked
      for among them and in their generation_config. A side input, whose content
      is not known yet, names none.
  """
  args = inference_args if isinstance(inference_args, Mapping) else {}
  config = getattr(args.get('generation_config'), 'max_new_tokens', None)
  most = args.get('max_new_tokens', config)
  if not isinstance(most, numbers.Real) or not most > 0:
    return 0
  # Some say sys.maxsize, for a text up to its end.
  return int(min(most, _MAX_NEW_TOKENS))


def of_tensors(
    inference_fn: Callable,
    stacking_fn: Callable | None,
    inference_args: Mapping[str, Any] | None) -> Callable[[Any], int] | None:
  """The length of a tensor, or of a dict of tensors, along its first dimension.

  That is the dimension which PaddingOptions pads, in a dict for its
  sequence_keys; the longest counts. A tensor without dimensions has length 1.

  Args:
    inference_fn: the one of the model handler.
    stacking_fn: the one that it has by default. With it the tensors of a batch
      must be of one shape, so their lengths are of no use: the answer is None.
    inference_args: what they let the model generate is added to each length.
  """
  if inference_fn is stacking_fn:
    return None
  padding = getattr(inference_fn, 'options', None)
  if padding is None:
    return _TensorLength(None, 1, new_tokens(inference_args))
  return _TensorLength(
      padding.sequence_keys,
      padding.pad_to_multiple_of,
      new_tokens(inference_args))


def of_adapted(
    length_fn: Callable[[Any], int] | None,
    input_fn: Callable[[Sequence[Any]], Iterable[Any]]
) -> Callable[[Any], int] | None:
  """The length of an element that holds several inputs of a model: their sum.

  Args:
    length_fn: of one input; None if it is not known.
    input_fn: the inputs of a batch of elements.
  """
  return length_fn and _AdaptedLength(length_fn, input_fn)


class _AdaptedLength:
  def __init__(self, length_fn, input_fn):
    self._length_fn = length_fn
    self._input_fn = input_fn

  def __call__(self, element) -> int:
    return sum(self._length_fn(value) for value in self._input_fn([element]))


class _TensorLength:
  """Of whatever has a shape or a length, so that torch is not imported."""
  def __init__(self, keys: Collection[str] | None, multiple: int, added: int):
    self._keys = keys
    self._multiple = multiple
    self._added = added

  def __call__(self, example) -> int:
    parts = [example]
    if isinstance(example, Mapping):
      parts = [example[key] for key in self._keys or example]
    elif isinstance(example, tuple):
      # What a user's own inference_fn may take.
      parts = list(example)
    longest = max(map(_first_dimension, parts))
    return self._added + -(-longest // self._multiple) * self._multiple


def _first_dimension(part) -> int:
  shape = getattr(part, 'shape', None)
  if shape is not None:
    return int(shape[0]) if len(shape) else 1
  return len(part) if isinstance(part, (list, tuple, str, bytes)) else 1
