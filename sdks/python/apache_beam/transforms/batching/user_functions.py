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

"""Checks of what a user's functions of an element return."""

import logging
import math
import operator
from collections.abc import Callable
from typing import Any

from apache_beam.transforms.batching.validation import one

_LOGGER = logging.getLogger(__name__)

# More than a length of anything in memory, and a batch's sum still fits 64 bits.
_LARGEST = 1 << 40


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
        return as_length(value)
      if value <= 0 or value > 0:  # Neither holds for NaN.
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


def as_length(value: Any) -> int:
  """A number of any type as a length, rounded up; an error if it is none."""
  length = _round_up(value)
  if not 0 <= length <= _LARGEST:
    raise ValueError(f'{length} is no length from 0 to 2**40')
  return length


def _round_up(value: Any) -> int:
  """The least integer that is no less than a number of any type."""
  try:
    # A tensor of one integer among them.
    return operator.index(value)
  except TypeError:
    if isinstance(value, (str, bytes)):
      raise
    if getattr(value, 'size', None) == 1 and hasattr(value, 'item'):
      value = value.item()  # Of an array of one number.
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
