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

"""What padding does with NumPy arrays."""

# pytype: skip-file

from collections.abc import Sequence
from typing import Any

import numpy


class NumpyArrays:
  """The operations that padding needs, on arrays."""
  name = 'NumPy arrays'

  @staticmethod
  def has(value: Any) -> bool:
    return isinstance(value, (numpy.ndarray, numpy.generic))

  @staticmethod
  def is_floating(dtype: numpy.dtype) -> bool:
    return dtype.kind in 'fc'

  @staticmethod
  def limits(dtype: numpy.dtype) -> tuple[float, float]:
    """The smallest and the largest finite number of a dtype.

    What does not hold numbers has none: its smallest is above its largest.
    """
    if dtype.kind == 'b':
      return 0, 1
    if dtype.kind not in 'iufc':
      return 1, 0
    if dtype.kind in 'iu':
      return numpy.iinfo(dtype).min, numpy.iinfo(dtype).max
    return float(numpy.finfo(dtype).min), float(numpy.finfo(dtype).max)

  @staticmethod
  def full(
      like: numpy.ndarray, shape: Sequence[int], value: float) -> numpy.ndarray:
    """An array of one value, with the dtype of another."""
    return numpy.full(shape, value, like.dtype)

  @staticmethod
  def fill(row: numpy.ndarray, values: numpy.ndarray) -> None:
    row[...] = values

  @staticmethod
  def of_array(array: numpy.ndarray, device: Any) -> numpy.ndarray:
    del device
    return array
