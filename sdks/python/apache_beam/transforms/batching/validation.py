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
import logging
import math
import numbers
import operator
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

__all__ = [
    'CheckedFn',
    'brief',
    'check_known_arguments',
    'check_parameters',
    'checked',
    'edit_distance',
    'one',
    'warn_of_unknown_arguments',
]

_LOGGER = logging.getLogger(__name__)

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
    if name == 'max_batch_duration_secs' and value == math.inf:
      raise ValueError(
          f'{owner}: {name}={value!r} must be finite. With 0 elements wait for '
          'the end of their window.')
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
  for message in _unknown(owner, arguments, known):
    raise TypeError(message)


def warn_of_unknown_arguments(
    owner: str, arguments: Iterable[str], known: Iterable[str]) -> None:
  """Warns of keyword arguments that nothing looks at, and names similar ones.
  """
  for message in _unknown(owner, arguments, known):
    _LOGGER.warning('%s It has no effect.', message)


def _unknown(owner, arguments, known):
  known = sorted(known)
  for name in arguments:
    if name not in known:
      similar = difflib.get_close_matches(name, known, 1)
      hint = f'Did you mean {similar[0]!r}?' if similar else 'Leave it out.'
      yield f'{owner}: unknown argument {name!r}. {hint}'


def edit_distance(one_word: str, other: str) -> int:
  """How many letters are added, left out or replaced (Levenshtein 1966)."""
  row = list(range(len(other) + 1))
  for i, letter in enumerate(one_word, 1):
    diagonal, row[0] = row[0], i
    for j, match in enumerate(other, 1):
      diagonal, row[j] = row[j], min(
          row[j] + 1, row[j - 1] + 1, diagonal + (letter != match))
  return row[-1]


class CheckedFn:
  """Calls a function of an element and checks what it returns.

  What the function raises stays what it is, so that dead letters of its class
  are dead letters; its message, where it is a plain one, names the element.

  Args:
    fn: maps an element to its length or size.
    name: the parameter that the function was given as.
    owner: the transform, for the messages.
    is_length: accept numbers from 0 to 2**40 alone, and round them up to
      integers. Otherwise whatever can be compared with numbers passes as it is,
      since pipelines from before these checks may rely on it.
  """
  def __init__(
      self,
      fn: Callable[[Any], Any],
      name: str,
      owner: str,
      is_length: bool = False):
    self._fn = fn
    self._name = name
    self._owner = owner
    self._is_length = is_length

  def __call__(self, element: Any) -> Any:
    try:
      value = self._fn(element)
    except Exception as e:
      _say_where(
          e,
          f'{self._owner}: {self._name} failed for the element '
          f'{brief(element)}')
      raise
    if type(value) is int and 0 <= value <= _LARGEST:  # pylint: disable=unidiomatic-typecheck
      return value
    return self._check(value, element)

  def _check(self, value: Any, element: Any) -> Any:
    try:
      if self._is_length:
        length = _round_up(value)
        if 0 <= length <= _LARGEST:
          return length
      elif value <= 0 or value > 0:  # Neither holds for NaN.
        return value
    except (OverflowError, TypeError, ValueError):
      pass
    must = 'a number from 0 to 2**40' if self._is_length else 'a number'
    raise ValueError(
        f'{self._owner}: {self._name} returned {brief(value)} for the element '
        f'{brief(element)}. It must return {must}.')


def _say_where(error: Exception, where: str) -> None:
  """Adds to the message of an error, as Beam does with the step's name."""
  # A note would be all that Beam shows of an error which it cannot copy.
  if len(error.args) == 1 and isinstance(error.args[0], str):
    if where not in error.args[0]:
      error.args = (f'{error.args[0]} [{where}]', )
  else:
    _LOGGER.error(where)


def _round_up(value: Any) -> int:
  """The least integer that is no less than a number of any type."""
  try:
    # A tensor of one integer among them.
    return operator.index(value)
  except TypeError:
    if isinstance(value, (str, bytes)):
      raise
    return math.ceil(float(value))


def brief(value: Any) -> str:
  """The representation of a value for a message, at most 200 characters."""
  try:
    return f'{value!r:.200}'
  except Exception:  # pylint: disable=broad-except
    return f'<{type(value).__name__}>'


def checked(
    fn: Callable[[Any], Any],
    name: str,
    owner: str,
    is_length: bool = False) -> Callable[[Any], Any]:
  """Wraps a user's function in its check; `one` needs none."""
  return fn if fn is one else CheckedFn(fn, name, owner, is_length)


def _is_number(value: Any) -> bool:
  return isinstance(value, numbers.Real) and not isinstance(value, bool)
