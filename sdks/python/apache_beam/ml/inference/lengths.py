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

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from apache_beam.transforms.batching.options import BatchingOptions

__all__ = [
    'innermost', 'new_tokens', 'of_adapted', 'of_tensors', 'with_known_length'
]


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


def with_known_length(
    handler,
    batch_elements_kwargs: Mapping[str, Any],
    inference_args: Mapping[str, Any] | None,
    options: BatchingOptions | None,
    owner: str) -> dict[str, Any]:
  """The arguments for BatchElements, with the length that the handler knows.

  A length_fn among them stays, unless the handler does not pad its batches.

  Raises:
    ValueError: if options are given which would have no effect.
  """
  kwargs, inner = dict(batch_elements_kwargs), innermost(handler)
  if not inner.pads_batches():
    if options is not None:
      raise ValueError(
          f'{owner}: batching_options have no effect, because '
          f'{type(inner).__name__} does not pad its batches. Leave them out.')
    kwargs.pop('length_fn', None)
    kwargs.pop('bucket_boundaries', None)
    return kwargs
  length_fn = kwargs.get('length_fn') or inner.get_length_fn(inference_args)
  if length_fn is not None:
    kwargs['length_fn'] = length_fn
  elif options is not None:
    raise ValueError(
        f'{owner}: batching_options have no effect, because '
        f'{type(inner).__name__} does not know the lengths of its examples. '
        'Give it a batch_length_fn.')
  return kwargs


def new_tokens(inference_args: Mapping[str, Any] | None) -> int:
  """The most tokens that are generated for an example, 0 if none is named.

  Args:
    inference_args: those of the model's `generate`; max_new_tokens is looked
      for among them and in their generation_config. A side input, whose content
      is not known yet, names none.
  """
  args = inference_args if isinstance(inference_args, Mapping) else {}
  config = getattr(args.get('generation_config'), 'max_new_tokens', None)
  return args.get('max_new_tokens', config) or 0


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
  keys = padding.sequence_keys if padding is not None else None
  return _TensorLength(keys, new_tokens(inference_args))


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
  """Any tensors will do that have a shape, so that torch is not imported."""
  def __init__(self, keys: Collection[str] | None, added: int):
    self._keys = keys
    self._added = added

  def __call__(self, example) -> int:
    tensors = [example]
    if isinstance(example, Mapping):
      tensors = [example[key] for key in self._keys or example]
    return self._added + max(
        int(tensor.shape[0]) if len(tensor.shape) else 1 for tensor in tensors)
