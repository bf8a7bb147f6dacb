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

"""Checks of batching parameters."""

import math
import numbers
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any


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


def _is_number(value: Any) -> bool:
  return isinstance(value, numbers.Real) and not isinstance(value, bool)
