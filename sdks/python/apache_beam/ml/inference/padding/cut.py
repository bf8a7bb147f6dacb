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

"""Cuts outputs with one row per token back to the length of their example.

An output whose size equals the padded length may have one row per token, or
that size by coincidence, such as as many classes as there are tokens. The
shortest example run alone tells which: only one row per token gets shorter.
"""

# pytype: skip-file

import copy
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from apache_beam.ml.inference.padding.options import PaddingOptions

# The dimensions of an output that follow the length of its example.
_Dims = tuple[int, ...]


class OutputCutter:
  """Cuts the outputs of one handler, and keeps what it found out about them."""
  def __init__(self, options: PaddingOptions, handler: str):
    self._declared = options.per_token_outputs
    self._left = options.side == 'left'
    self._handler = handler
    # What 'auto' has found out, by path of the output. Threads which share the
    # handler may find it out twice, with the same answer.
    self._found: dict[tuple, _Dims] = {}

  def __getstate__(self):
    return {**self.__dict__, '_found': {}}

  def cut(
      self,
      inferences: Sequence[Any],
      lengths: Sequence[int],
      padded_length: int,
      run_shortest_alone: Callable[[], Any]) -> list[Any]:
    """Returns the inferences of a batch without the rows of its padding.

    Args:
      inferences: the inference of each example.
      lengths: the length of each example.
      padded_length: to which they were padded.
      run_shortest_alone: gives the inference of the shortest example alone,
        without padding.

    Raises:
      ValueError: if an output is not what `per_token_outputs` says of it.
    """
    shortest = min(lengths)
    if not self._declared or (self._declared == 'auto' and
                              shortest == padded_length):
      return list(inferences)

    def find_out(path, sizes):
      alone = _sizes(_at(run_shortest_alone(), path))
      if len(alone) != len(sizes):
        return ()
      return tuple(
          dim for dim, (size, size_alone) in enumerate(zip(sizes, alone))
          if size == padded_length and size_alone == shortest)

    def holds_outputs(output, path):
      """Whether a list is one of outputs, not of a row for each token."""
      if not _may_hold_outputs(output):
        return False
      if len(output) != padded_length:
        return True
      if self._declared != 'auto':
        return False
      alone = _at(run_shortest_alone(), path)
      return isinstance(alone, list) and len(alone) == len(output)

    return [
        self._cut_one(
            inference, length, padded_length, find_out, holds_outputs)
        for inference, length in zip(inferences, lengths)
    ]

  def _cut_one(self, inference, length, padded_length, find_out, holds_outputs):
    self._check_names(inference)

    def cut(output, path):
      if holds_outputs(output, path):
        # One after the other, as the hidden states of layers.
        return [
            _map(value, cut, (*path, index))
            for index, value in enumerate(output)
        ]
      dims = self._dims(path, _sizes(output), padded_length, find_out)
      if length == padded_length:
        return output
      rows = slice(padded_length -
                   length, None) if self._left else slice(length)
      for dim in dims:
        output = output[(slice(None), ) * dim +
                        (rows, )] if dim else output[rows]
      return output

    return _map(inference, cut)

  def _check_names(self, inference):
    if not isinstance(self._declared, tuple):
      return
    names = set(inference) if isinstance(inference, Mapping) else set()
    missing = set(self._declared) - names
    if missing:
      got = (
          f'the outputs {sorted(names)}'
          if isinstance(inference, Mapping) else type(inference).__name__)
      raise ValueError(
          f'{self._handler}: PaddingOptions.per_token_outputs names '
          f'{sorted(missing)}, but the model returned {got}.')

  def _dims(self, path, sizes, padded_length, find_out) -> _Dims:
    if self._declared == 'auto':
      return self._find_out(path, sizes, padded_length, find_out)
    if self._declared is not True and path[0] not in self._declared:
      return ()
    if not sizes or sizes[0] != padded_length:
      raise ValueError(
          f'{self._handler}: PaddingOptions.per_token_outputs='
          f'{self._declared!r} includes {_output_name(path)}, but its size '
          f'after the batch dimension is {sizes[0] if sizes else None}, not the '
          f'padded length {padded_length}. Name only outputs with one row per '
          'token.')
    return (0, )

  def _find_out(self, path, sizes, padded_length, find_out) -> _Dims:
    if not sizes:
      return ()
    if path not in self._found:
      self._found[path] = find_out(path,
                                   sizes) if padded_length in sizes else ()
    dims = self._found[path]
    if any(dim >= len(sizes) or sizes[dim] != padded_length for dim in dims):
      raise ValueError(
          f'{self._handler}: {_output_name(path)} had one row per token so far, '
          f'but now has {sizes[dims[0]] if dims[0] < len(sizes) else None} for a '
          f'padded length of {padded_length}. Set '
          'PaddingOptions.per_token_outputs.')
    return dims


def _map(output: Any, function: Callable[[Any, tuple], Any], path=()) -> Any:
  """A copy of nested outputs with each replaced; others keep their types."""
  if isinstance(output, Mapping):
    changed = copy.copy(output)
    # The outputs of transformers models refuse update().
    for name, value in output.items():
      changed[name] = _map(value, function, (*path, name))
    return changed
  if isinstance(output, tuple):
    values = [
        _map(value, function, (*path, index))
        for index, value in enumerate(output)
    ]
    if hasattr(output, '_make'):
      return output._make(values)
    return type(output)(values)
  return function(output, path)


def _may_hold_outputs(output: Any) -> bool:
  return isinstance(output, list) and bool(output) and all(
      len(_sizes(value)) > 0 or isinstance(value, (Mapping, tuple))
      for value in output)


def _at(output, path):
  """The output at a path, None if there is none."""
  for key in path:
    try:
      output = output[key]
    except (IndexError, KeyError, TypeError):
      return None
  return output


def _sizes(output) -> tuple[int, ...]:
  """The sizes of the dimensions; of a list its length."""
  if isinstance(output, list):
    return (len(output), )
  return tuple(getattr(output, 'shape', None) or ())


def _output_name(path) -> str:
  if not path:
    return 'the output'
  first, *rest = path
  return f'output {first!r}' + ''.join(f'[{key!r}]' for key in rest)
