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

"""Pads the examples of a batch to its longest, and makes the mask.

What cannot be padded alike is refused, by index and key.
"""

# pytype: skip-file

import copy
import dataclasses
import math
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import numpy

from apache_beam.ml.inference.padding.options import PaddingOptions

# The key of a tensor that comes without one. No mask can have this name.
_NO_KEY = ''


class _Columns:
  """Pads examples which are dicts of tensors."""
  def __init__(self, options: PaddingOptions, handler: str, tensors: type):
    self._options = options
    self._handler = handler
    # The operations on them, such as TorchTensors.
    self._tensors = tensors
    self._mask_dtype = 'int64'
    # The key of the model's token ids, and what pads them.
    self._ids: str | None = None
    self._id_value = 0

  def with_model(
      self, mask: str | None, mask_dtype: str, ids: str | None, pad_value: int):
    """The same with what is known of the model.

    Args:
      mask: the name of its mask; None for none.
      mask_dtype: the name of a dtype.
      ids: the key of its token ids; None if it is not known.
      pad_value: what pads these, unless options name another value.
    """
    padder = copy.copy(self)
    padder._options = dataclasses.replace(self._options, mask=mask)
    padder._mask_dtype = mask_dtype
    padder._ids, padder._id_value = ids, pad_value
    return padder

  def _pad_columns(
      self, batch: Sequence[Mapping[str, Any]],
      is_alone: bool) -> tuple[dict[str, list[Any]], list[int], int]:
    """Returns padded tensors by key, the length of each example, and the length
    to which they are padded."""
    for index, example in enumerate(batch):
      for key, tensor in example.items():
        self._check_type(tensor, key, index)
    lengths = [self._length(e, index) for index, e in enumerate(batch)]
    longest = max(lengths)
    padded_length = longest if is_alone else self._options.padded_length(
        longest)
    padded_keys = self._padded_keys(batch[0])
    self._check_pad_value(padded_keys)
    columns = {}
    for key in batch[0]:
      tensors = [example[key] for example in batch]
      self._check_alike(tensors, key, key in padded_keys)
      if key in padded_keys:
        tensors = self._pad(tensors, lengths, key, padded_length)
      columns[key] = tensors
    return columns, lengths, padded_length

  def _check_type(self, tensor, key, index):
    if not self._tensors.has(tensor):
      raise TypeError(
          f'{self._handler}: padding needs {self._tensors.name}, but '
          f'{_name(key, index)} is a {type(tensor).__module__}.'
          f'{type(tensor).__name__}.')

  def _padded_keys(self, example) -> list[str]:
    named = self._options.sequence_keys
    if named is None:
      return [key for key, tensor in example.items() if tensor.ndim]
    return [k for k in example if k in named or k == self._options.mask]

  def _length(self, example, index) -> int:
    keys = self._padded_keys(example)
    missing = [k for k in self._options.sequence_keys or () if k not in keys]
    if missing or not keys:
      raise ValueError(
          f'{self._handler}: {_name(_NO_KEY, index)} has no tensor to pad for '
          f'{missing or "any key"}; its keys are {sorted(example)}. Name those '
          'to pad in PaddingOptions(sequence_keys=...).')
    length, *others = [self._key_length(example[k], k, index) for k in keys]
    for key, other in zip(keys[1:], others):
      if other != length:
        raise ValueError(
            f'{self._handler}: {_name(key, index)} has length {other}, but '
            f'{keys[0]!r} has length {length}. Name the keys to pad, which '
            'must agree, in PaddingOptions(sequence_keys=...).')
    return length

  def _key_length(self, tensor, key, index) -> int:
    if not tensor.ndim:
      raise ValueError(
          f'{self._handler}: {_name(key, index)} has no dimension to pad '
          'along; give it at least one, for instance with tensor.reshape(1).')
    length = tensor.shape[0]
    if not length:
      raise ValueError(
          f'{self._handler}: {_name(key, index)} has shape '
          f'{tuple(tensor.shape)}. A sequence of length 0 has no result of its '
          'own; filter it out before RunInference.')
    return length

  def _check_pad_value(self, padded_keys):
    value = self._options.pad_value
    unmasked = set(padded_keys) - {self._options.mask}
    if isinstance(value, dict):
      unknown = set(value) - unmasked - {self._options.mask}
      if unknown:
        raise ValueError(
            f'{self._handler}: PaddingOptions.pad_value names '
            f'{sorted(unknown)}, but the keys that are padded are '
            f'{sorted(padded_keys)}.')
    elif value not in (0, 'auto') and len(unmasked) > 1:
      raise ValueError(
          f'{self._handler}: PaddingOptions.pad_value {value} would pad each '
          f'of {sorted(padded_keys)}; give a mapping from key to number.')

  def _check_alike(self, tensors, key, is_padded):
    """Checks that dtypes agree, and shapes but for a dimension to pad."""
    first = tensors[0]
    start = 1 if is_padded else 0
    for index, tensor in enumerate(tensors):
      if (tensor.ndim != first.ndim or
          tensor.shape[start:] != first.shape[start:]):
        remedy = (
            'all but the first dimension must agree (of tensors of shape (1, n) '
            'pass tensor[0])' if is_padded else
            'name the key in PaddingOptions(sequence_keys=...) to pad it')
        raise ValueError(
            f'{self._handler}: {_name(key, index)} has shape '
            f'{tuple(tensor.shape)}, but {_name(key, 0)} has shape '
            f'{tuple(first.shape)}; {remedy}.')
      if tensor.dtype != first.dtype:
        raise ValueError(
            f'{self._handler}: {_name(key, index)} has dtype {tensor.dtype}, '
            f'but {_name(key, 0)} has dtype {first.dtype}; convert them to one '
            'dtype before RunInference.')

  def _pad(self, tensors, lengths, key, padded_length):
    """Pads tensors of shape (length, ...) to (padded_length, ...)."""
    first = tensors[0]
    value = self._pad_value(key, first.dtype)
    if not self._fits(value, first.dtype):
      raise ValueError(
          f'{self._handler}: PaddingOptions.pad_value {value} cannot be held '
          f'by {_name(key, 0)} of dtype {first.dtype}.')
    if min(lengths) == padded_length:
      return tensors
    shape = len(tensors), padded_length, *first.shape[1:]
    padded = list(self._tensors.full(first, shape, value))
    for row, tensor, length in zip(padded, tensors, lengths):
      start = padded_length - length if self._options.side == 'left' else 0
      self._tensors.fill(row[start:start + length], tensor)
    return padded

  def _pad_value(self, key, dtype):
    value = self._options.pad_value
    if isinstance(value, dict):
      return value.get(key, 0)
    if value != 'auto':
      return 0 if key == self._options.mask else value
    is_ids = self._ids is not None and key in (self._ids, _NO_KEY)
    return (
        self._id_value
        if is_ids and not self._tensors.is_floating(dtype) else 0)

  def _fits(self, value, dtype) -> bool:
    low, high = self._tensors.limits(dtype)
    if not math.isfinite(value):
      return self._tensors.is_floating(dtype)
    is_whole = value == int(value)
    return low <= value <= high and (
        is_whole or self._tensors.is_floating(dtype))

  def _mask(self, lengths, padded_length, device):
    mask = numpy.arange(padded_length) < numpy.array(lengths)[:, None]
    if self._options.side == 'left':
      mask = mask[:, ::-1]
    return self._tensors.of_array(mask.astype(self._mask_dtype), device)


class Padded(NamedTuple):
  """A padded batch.

  Args:
    examples: the padded examples.
    model_args: arguments for the model.
    lengths: of the examples.
    padded_length: to which they were padded.
  """
  examples: list
  model_args: dict[str, Any]
  lengths: list[int]
  padded_length: int


class Padder(_Columns):
  """Pads examples which are tensors."""
  def __init__(self, options: PaddingOptions, handler: str, tensors: type):
    if isinstance(options.pad_value, dict):
      raise ValueError(
          f'{handler}: PaddingOptions.pad_value must be a number; a mapping is '
          'for dicts of tensors, which keyed handlers take.')
    if options.sequence_keys is not None:
      raise ValueError(
          f'{handler}: PaddingOptions.sequence_keys is for dicts of '
          'tensors, which keyed handlers take.')
    super().__init__(
        dataclasses.replace(options, sequence_keys=(_NO_KEY, )),
        handler,
        tensors)

  def pad(self, batch, device, is_alone: bool = False) -> Padded:
    """Pads a batch; one that is alone to its own length."""
    columns, lengths, padded_length = self._pad_columns(
        [{_NO_KEY: x} for x in batch], is_alone)
    model_args = {}
    if self._options.mask is not None:
      model_args[self._options.mask] = self._mask(
          lengths, padded_length, device)
    return Padded(columns[_NO_KEY], model_args, lengths, padded_length)


class KeyedPadder(_Columns):
  """Pads examples which are dicts of tensors."""
  def pad(self, batch, device, is_alone: bool = False) -> Padded:
    """Pads a batch; one that is alone to its own length."""
    self._check_keys(batch)
    columns, lengths, padded_length = self._pad_columns(batch, is_alone)
    mask = self._options.mask
    if mask is not None and mask not in columns:
      first = batch[0][self._padded_keys(batch[0])[0]]
      columns[mask] = list(self._mask(lengths, padded_length, first.device))
    rows = [dict(zip(columns, row)) for row in zip(*columns.values())]
    return Padded(rows, {}, lengths, padded_length)

  def _check_keys(self, batch):
    for index, example in enumerate(batch):
      if not isinstance(example, Mapping):
        raise TypeError(
            f'{self._handler}: padding needs dicts of {self._tensors.name}, but '
            f'{_name(_NO_KEY, index)} is a {type(example).__name__}.')
      if example.keys() != batch[0].keys():
        raise ValueError(
            f'{self._handler}: {_name(_NO_KEY, index)} has the keys '
            f'{sorted(example)}, but {_name(_NO_KEY, 0)} has '
            f'{sorted(batch[0])}; all must have the same keys.')


def _name(key, index) -> str:
  element = f'element {index} of the batch'
  return element if key == _NO_KEY else f'key {key!r} of {element}'
