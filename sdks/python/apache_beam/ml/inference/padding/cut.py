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

__all__ = ['OutputCutter']


class OutputCutter:
  """Cuts the outputs of one handler, and keeps what it found out about them."""
  def __init__(self, options: PaddingOptions, handler: str):
    self._declared = options.per_token_outputs
    self._left = options.side == 'left'
    self._handler = handler
    # What 'auto' has found out, by name of the output. Threads which share the
    # handler may find it out twice, with the same answer.
    self._found: dict[Any, bool] = {}

  def __getstate__(self):
    return {**self.__dict__, '_found': {}}

  def cut(
      self,
      inferences: Sequence[Any],
      lengths: Sequence[int],
      run_shortest_alone: Callable[[], Any]) -> Sequence[Any]:
    """Returns the inferences of a batch without the rows of its padding.

    Args:
      inferences: the inference of each example.
      lengths: the length of each example; the longest is the padded length.
      run_shortest_alone: gives the inference of the shortest example alone.

    Raises:
      ValueError: if an output is not what `per_token_outputs` says of it.
    """
    shortest, longest = min(lengths), max(lengths)
    if not self._declared or (self._declared == 'auto' and shortest == longest):
      return inferences

    def is_shorter_alone(name):
      alone = _outputs(run_shortest_alone()).get(name)
      return _size(alone) == shortest

    return [
        self._cut_one(inference, length, longest, is_shorter_alone)
        for inference, length in zip(inferences, lengths)
    ]

  def _cut_one(self, inference, length, longest, is_shorter_alone):
    outputs = _outputs(inference)
    self._check_names(inference, outputs)
    per_token = [
        name for name, output in outputs.items()
        if self._is_per_token(name, _size(output), longest, is_shorter_alone)
    ]
    if length == longest or not per_token:
      return inference
    rows = slice(longest - length, None) if self._left else slice(length)
    cut = {name: outputs[name][rows] for name in per_token}
    return _with_outputs(inference, cut)

  def _check_names(self, inference, outputs):
    if not isinstance(self._declared, tuple):
      return
    missing = set(self._declared) - set(outputs)
    if missing:
      got = (
          f'the outputs {sorted(outputs)}'
          if isinstance(inference, Mapping) else type(inference).__name__)
      raise ValueError(
          f'{self._handler}: PaddingOptions.per_token_outputs names '
          f'{sorted(missing)}, but the model returned {got}.')

  def _is_per_token(self, name, size, longest, is_shorter_alone) -> bool:
    if self._declared == 'auto':
      return self._find_out(name, size, longest, is_shorter_alone)
    if self._declared is not True and name not in self._declared:
      return False
    if size != longest:
      raise ValueError(
          f'{self._handler}: PaddingOptions.per_token_outputs='
          f'{self._declared!r} includes {_output_name(name)}, but its size '
          f'after the batch dimension is {size}, not the padded length '
          f'{longest}. Name only outputs with one row per token.')
    return True

  def _find_out(self, name, size, longest, is_shorter_alone) -> bool:
    if size is None:
      return False
    if name not in self._found:
      self._found[name] = size == longest and is_shorter_alone(name)
    if self._found[name] and size != longest:
      raise ValueError(
          f'{self._handler}: {_output_name(name)} had one row per token so '
          f'far, but now has {size} for a padded length of {longest}. Set '
          'PaddingOptions.per_token_outputs.')
    return self._found[name]


def _outputs(inference) -> dict[Any, Any]:
  """The outputs of one example by name, or position; None if it is the only."""
  if isinstance(inference, Mapping):
    return dict(inference)
  if isinstance(inference, tuple):
    return dict(enumerate(inference))
  return {None: inference}


def _with_outputs(inference, changed):
  """A copy of the same type with some outputs changed."""
  if isinstance(inference, Mapping):
    inference = copy.copy(inference)
    # The outputs of transformers models refuse update().
    for name, value in changed.items():
      inference[name] = value
    return inference
  if isinstance(inference, tuple):
    values = {**_outputs(inference), **changed}.values()
    if hasattr(inference, '_make'):
      return inference._make(values)
    return type(inference)(values)
  return changed[None]


def _size(output) -> int | None:
  """The length of the first dimension, None if there is none."""
  if isinstance(output, list):
    return len(output)
  shape = getattr(output, 'shape', None)
  return shape[0] if shape else None


def _output_name(name) -> str:
  return 'the output' if name is None else f'output {name!r}'
