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

import torch

__all__ = ['difference', 'largest_difference']

# By which part of the largest value of an output results may differ, by the
# digits of its type: kernels add up in another order for another shape. One token
# of padding in 60 to 500 that is not hidden changes MiniLM's outputs by 2 to 10 %
# of it, a hidden one by 1e-6.
_TOLERANCE = {
    torch.float64: 5e-3,
    torch.float32: 5e-3,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}


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
  if isinstance(together, Mapping) and isinstance(alone, Mapping):
    pairs = [(key, together[key], alone[key]) for key in together
             if key in alone]
  elif (isinstance(together, (tuple, list)) and
        isinstance(alone, (tuple, list)) and len(together) == len(alone) and
        any(isinstance(part, (torch.Tensor, Mapping, tuple))
            for part in together)):
    pairs = [(i, *both) for i, both in enumerate(zip(together, alone))]
  else:
    found = difference(together, alone, integers)
    return None if found is None else (name, found)
  for key, first, second in pairs:
    found = largest_difference(first, second, integers, f'{name}[{key!r}]')
    if found is not None:
      return found
  return None


def difference(
    together: Any, alone: Any, integers: bool = False) -> float | None:
  """The largest difference of two outputs, None if they are equal but for
  rounding or cannot be compared."""
  try:
    first, second = torch.as_tensor(together), torch.as_tensor(alone)
  except (TypeError, ValueError, RuntimeError):
    return None
  if first.shape != second.shape or not first.numel():
    return None
  if first.is_complex() and second.is_complex():
    first, second = torch.view_as_real(first), torch.view_as_real(second)
  if not first.is_floating_point():
    if not integers or torch.equal(first, second):
      return None
    return float((first.double() - second.double()).abs().max())
  tolerance = _TOLERANCE.get(first.dtype, 1e-1)
  first, second = first.double(), second.double()
  # What is infinite or no number alone may be so together.
  finite = first.isfinite() & second.isfinite()
  if not torch.equal(first.isfinite(), second.isfinite()):
    return float('inf')
  if not finite.any():
    return None
  largest = float((first - second)[finite].abs().max())
  scale = float(second[finite].abs().max())
  return largest if largest > tolerance * scale + 1e-6 else None
