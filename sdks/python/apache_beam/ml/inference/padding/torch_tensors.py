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

"""What padding does with PyTorch tensors."""

# pytype: skip-file

from collections.abc import Sequence
from typing import Any

import numpy
import torch


class TorchTensors:
  """The operations that padding needs, on tensors."""
  name = 'PyTorch tensors'

  @staticmethod
  def has(value: Any) -> bool:
    return isinstance(value, torch.Tensor)

  @staticmethod
  def is_floating(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex

  @staticmethod
  def limits(dtype: torch.dtype) -> tuple[float, float]:
    """The smallest and the largest finite number of a dtype."""
    if dtype is torch.bool:
      return 0, 1
    is_floating = TorchTensors.is_floating(dtype)
    info = torch.finfo(dtype) if is_floating else torch.iinfo(dtype)
    return info.min, info.max

  @staticmethod
  def full(
      like: torch.Tensor, shape: Sequence[int], value: float) -> torch.Tensor:
    """A tensor of one value, with the dtype and the device of another."""
    return like.new_full(shape, value)

  @staticmethod
  def fill(row: torch.Tensor, values: torch.Tensor) -> None:
    with torch.no_grad():
      row[...] = values

  @staticmethod
  def of_array(array: numpy.ndarray, device: Any) -> torch.Tensor:
    return torch.from_numpy(array).to(_torch_device(device))


def _torch_device(device) -> torch.device:
  # The Hugging Face handlers pass 'CPU' or 'GPU' and fall back to the CPU.
  if device == 'GPU':
    return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
  return torch.device('cpu' if device == 'CPU' else device)
