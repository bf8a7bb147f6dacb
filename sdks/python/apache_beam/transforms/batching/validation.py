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

"""Checks of batching parameters, and of what a user's functions return."""

import difflib
import math
import numbers
import operator
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

__all__ = [
    'CheckedFn', 'check_known_arguments', 'check_parameters', 'checked', 'one'
]

# More than a length of anything in memory, and a batch's sum still fits 64 bits.
_LARGEST = 1 << 40


def one(unused_element: Any) -> int:
  """The size of an element where only their number counts."""
  return 1


def check_parameters(owner: str, parameters: Mapping[str, Any]) -> None:
  """Checks the parameters of batching by their names; others are ignored.

  A value of None means that a parameter is not given.

  Args:
    owner: the transform or handler, for the messages.
    parameters: any of min_batch_size, max_batch_size,
      max_batch_duration_secs, max_batch_weight (which needs element_size_fn)
      and bucket_boundaries.

  Raises:
    TypeError: if a value has the wrong type.
    ValueError: if a value is out of range.
  """
  for name, lowest in (('min_batch_size', 1), ('max_batch_size', 1),
                       ('max_batch_weight', 1), ('max_batch_duration_secs', 0)):
    value = parameters.get(name)
    if value is None:
      continue
    if not _is_number(value):
      raise TypeError(f'{owner}: {name}={value!r} must be a number.')
    if not value >= lowest:
      raise ValueError(f'{owner}: {name}={value!r} must be at least {lowest}.')
  low, high = (parameters.get(f'{end}_batch_size') for end in ('min', 'max'))
  if low is not None and high is not None and low > high:
    raise ValueError(
        f'{owner}: min_batch_size={low!r} must not be greater than '
        f'max_batch_size={high!r}.')
  sizes = parameters.get('element_size_fn')
  if parameters.get('max_batch_weight') is not None and sizes in (None, one):
    raise ValueError(f'{owner}: max_batch_weight needs element_size_fn.')
  _check_boundaries(owner, parameters.get('bucket_boundaries'))


def _check_boundaries(owner: str, boundaries: Iterable[float] | None) -> None:
  if boundaries is None:
    return
  if not isinstance(boundaries, (list, tuple)):
    raise TypeError(
        f'{owner}: bucket_boundaries={boundaries!r} must be a list or a tuple.')
  for boundary in boundaries:
    if not _is_number(boundary) or not 0 < boundary < math.inf:
      raise ValueError(
          f'{owner}: bucket_boundaries holds {boundary!r}; each must be a '
          'positive number.')
  if not boundaries or any(a >= b for a, b in zip(boundaries, boundaries[1:])):
    raise ValueError(
        f'{owner}: bucket_boundaries={boundaries!r} must not be empty, must be '
        'ascending, and must not name a boundary twice.')


def check_known_arguments(
    owner: str, arguments: Iterable[str], known: Iterable[str]) -> None:
  """Refuses keyword arguments that nothing looks at.

  Raises:
    TypeError: if an argument is not known; the message names a similar one.
  """
  known = sorted(known)
  for name in arguments:
    if name in known:
      continue
    similar = difflib.get_close_matches(name, known, 1)
    hint = f'Did you mean {similar[0]!r}?' if similar else 'Leave it out.'
    raise TypeError(f'{owner}: unknown argument {name!r}. {hint}')


class CheckedFn:
  """Calls a function of an element and checks what it returns.

  Args:
    fn: maps an element to its length or size.
    name: the parameter that the function was given as.
    owner: the transform, for the messages.
    strict: accept integers of 0 or more alone. Otherwise whatever can be
      compared with numbers passes as it is, since pipelines from before these
      checks may rely on it.
  """
  def __init__(
      self, fn: Callable[[Any], int], name: str, owner: str, strict: bool):
    self._fn = fn
    self._name = name
    self._owner = owner
    self._strict = strict

  def __call__(self, element: Any) -> int:
    try:
      value = self._fn(element)
    except Exception as e:
      if not self._strict:
        raise
      raise ValueError(
          f'{self._owner}: {self._name} failed for the element '
          f'{element!r:.200}: {e!r}') from e
    if type(value) is int and 0 <= value <= _LARGEST:  # pylint: disable=unidiomatic-typecheck
      return value
    return self._check(value, element)

  def _check(self, value: Any, element: Any) -> int:
    try:
      if self._strict:
        # An integer of any type, a tensor of one integer among them.
        size = operator.index(value)
        if 0 <= size <= _LARGEST:
          return size
      elif value <= 0 or value > 0:  # Neither holds for NaN.
        return value
    except TypeError:
      pass
    must = 'an int from 0 to 2**40' if self._strict else 'a number'
    raise ValueError(
        f'{self._owner}: {self._name} returned {value!r} for the element '
        f'{element!r:.200}. It must return {must}.')


def checked(fn: Callable[[Any], int], name: str, owner: str,
            strict: bool) -> Callable[[Any], int]:
  """Wraps a user's function in its check; `one` needs none."""
  return fn if fn is one else CheckedFn(fn, name, owner, strict)


def _is_number(value: Any) -> bool:
  return isinstance(value, numbers.Real) and not isinstance(value, bool)
