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

"""How much memory an element takes, about."""

import collections
import functools
import sys
from collections.abc import Mapping
from collections.abc import Sequence
from collections.abc import Set
from typing import Any

# Deep enough for a key with a row that has a dict of lists.
_DEPTH = 4
# How many parts of a long list stand for all of them.
_PARTS = 16
# More than any memory; sums fit 64 bits.
_MAX_BYTES = 1 << 50
# Bytes of a pixel in a band, where it is not one.
_IMAGE = {'I': 4, 'F': 4, 'I;16': 2}
_FLAT = frozenset(
    (bool, bytearray, bytes, complex, float, int, str, type(None)))


def approximate_bytes(element: Any, depth: int = _DEPTH) -> int:
  """The bytes of an element with what it holds, as far as it takes little time to know.

  Counts tensors and arrays by their ``nbytes``, images by their pixels, and goes
  into containers, mappings, dataclasses, rows and other objects of up to four
  levels, where 16 parts of a long one, evenly spaced, stand for all.
  """
  if type(element) in _FLAT:
    return element.__sizeof__()
  if not isinstance(element, (tuple, list, dict)):
    known = _known(element)
    if known is not None:
      return known
  total = _own(element)
  try:
    parts = _parts(element) if depth else ()
    some = parts[::-(-len(parts) // _PARTS)] if parts else ()
  except Exception:  # pylint: disable=broad-except
    some = ()  # A container of the user's may do anything.
  if not some:
    return total
  # Most parts are flat, and a call takes as long as their size.
  sizes = [
      part.__sizeof__() if type(part) in _FLAT else approximate_bytes(
          part, depth - 1) for part in some
  ]
  return total + sum(sizes) * len(parts) // len(sizes)


def _own(element):
  try:
    return sys.getsizeof(element, 64)
  except Exception:  # pylint: disable=broad-except
    return 64


def _known(element) -> int | None:
  """The bytes that an object says it has; None if it does not say."""
  module = type(element).__module__
  try:
    if module.startswith('torch') and 'sparse' in str(element.layout):
      return _sparse(element)
    nbytes = getattr(element, 'nbytes', None)
    if isinstance(nbytes, int):
      return min(max(nbytes, 0), _MAX_BYTES)
    if module.startswith('PIL.'):
      width, height = element.size
      return width * height * len(element.getbands()) * _IMAGE.get(
          element.mode, 1)
    if hasattr(element, 'memory_usage'):
      return int(element.memory_usage().sum())
  except Exception:  # pylint: disable=broad-except
    pass
  return None


def _sparse(element) -> int:
  """The bytes of a sparse tensor: those of its values and of their places."""
  parts = ('_values', '_indices') if element.is_sparse else (
      'values', 'crow_indices', 'col_indices', 'ccol_indices', 'row_indices')
  total = 0
  for name in parts:
    try:
      total += getattr(element, name)().nbytes
    except RuntimeError:
      pass  # Of another layout.
  return total


def _parts(element) -> Sequence[Any]:
  """What an object holds."""
  if isinstance(element, (tuple, list)):
    return element
  if isinstance(element, Mapping):
    # Keys are names, or as small.
    return [*element.values()]
  if isinstance(element, (Set, collections.deque)):
    return [*element]
  held = [*getattr(element, '__dict__', {}).values()]
  for name in _slots(type(element)):
    held.append(getattr(element, name, None))
  return held


@functools.lru_cache(maxsize=1024)
def _slots(kind: type) -> tuple[str, ...]:
  """The names of the attributes that objects of a class have without a dict."""
  found = []
  for base in kind.__mro__:
    slots = base.__dict__.get('__slots__', ())
    slots = (slots, ) if isinstance(slots, str) else slots
    found += [name for name in slots if not name.startswith('__')]
  return tuple(found)
