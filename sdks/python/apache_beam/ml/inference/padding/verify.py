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

"""Whether an example's results are those that the model gives for it alone."""

# pytype: skip-file

from collections.abc import Mapping
from typing import Any

import numpy

# By which part of the largest value of an output results may differ, by the
# digits of its type: kernels add up in another order for another shape. One token
# of padding in 60 to 500 that is not hidden changes MiniLM's outputs by 2 to 10 %
# of it, a hidden one by 1e-6.
_TOLERANCE = {
    'float64': 5e-3,
    'float32': 5e-3,
    'float16': 2e-2,
    'bfloat16': 1e-1,
}
# Values from here on that are equal may stand for minus infinity: masked classes
# have -1e4, -1e9 or the least number of their type.
_CONSTANT = 9999.0


def largest_difference(
    together: Any,
    alone: Any,
    integers: bool = False,
    name: str = '') -> tuple[str, float] | None:
  """Compares the inference of an example in a batch with that for it alone.

  Outputs that are no numbers or differ in shape are left out.

  Args:
    together: the inference of the example in its batch.
    alone: that of a batch of one.
    integers: whether integers are compared as well.
    name: of the output, for what is returned.

  Returns:
    The name and the largest difference of an output that differs beyond
    rounding; None if there is none.
  """
  pairs = _pairs(together, alone)
  if pairs is None:
    found = difference(together, alone, integers)
    return None if found is None else (name, found)
  for key, first, second in pairs:
    found = largest_difference(first, second, integers, f'{name}[{key!r}]')
    if found is not None:
      return found
  return None


def other_size(together: Any,
               alone: Any,
               name: str = '') -> tuple[str, tuple, tuple] | None:
  """The first output of an example whose shape differs from that alone.

  Args:
    together, alone, name: as of ``largest_difference``.

  Returns:
    Its name and both shapes; None if there is none.
  """
  pairs = _pairs(together, alone)
  if pairs is None:
    shapes = [
        tuple(getattr(output, 'shape', None) or ())
        for output in (together, alone)
    ]
    return None if shapes[0] == shapes[1] else (name, *shapes)
  for key, first, second in pairs:
    found = other_size(first, second, f'{name}[{key!r}]')
    if found is not None:
      return found
  return None


def _pairs(together: Any, alone: Any) -> list[tuple] | None:
  """What two outputs hold, with its keys; None if they hold no others."""
  if isinstance(together, Mapping) and isinstance(alone, Mapping):
    return [(key, together[key], alone[key]) for key in together
            if key in alone]
  if (isinstance(together, (tuple, list)) and
      isinstance(alone, (tuple, list)) and len(together) == len(alone) and
      any(hasattr(part, 'shape') or isinstance(part, (Mapping, tuple))
          for part in together)):
    return [(i, *both) for i, both in enumerate(zip(together, alone))]
  return None


def difference(
    together: Any, alone: Any, integers: bool = False) -> float | None:
  """The largest difference of two outputs, None if they are equal but for
  rounding or cannot be compared."""
  try:
    first, dtype = _array(together)
    second, _ = _array(alone)
  except (TypeError, ValueError, RuntimeError):
    return None
  if first.shape != second.shape or not first.size:
    return None
  if first.dtype.kind not in 'fc':
    if not integers or first.dtype.kind not in 'biu' or numpy.array_equal(
        first, second):
      return None
    return float(
        numpy.abs(first.astype('float64') - second.astype('float64')).max())
  # What is infinite or no number alone may be so together.
  finite = numpy.isfinite(first)
  if not numpy.array_equal(finite, numpy.isfinite(second)):
    return float('inf')
  if not finite.any():
    return None
  first, second = first[finite], second[finite]
  largest = float(numpy.abs(first - second).max())
  scale = _scale(first, second)
  tolerance = _TOLERANCE.get(dtype, 1e-1)
  return largest if largest > tolerance * scale + 1e-6 else None


def _scale(first, second) -> float:
  """The largest value, without constants that stand for minus infinity."""
  sizes = numpy.abs(second)
  others = sizes[(first != second) | (sizes < _CONSTANT)]
  return float(others.max()) if others.size else 0.0


def _array(value: Any) -> tuple[numpy.ndarray, str]:
  """An output as an array of at least double precision, and its own dtype."""
  if hasattr(value, 'detach'):
    # A tensor; NumPy has no bfloat16.
    dtype = str(value.dtype).removeprefix('torch.')
    value = value.detach().cpu()
    value = numpy.asarray(value.double() if dtype == 'bfloat16' else value)
  else:
    value = numpy.asarray(value)
    dtype = value.dtype.name
  if value.dtype.kind == 'f':
    value = value.astype('float64')
  return value, dtype
