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

"""How elements are grouped by length."""

import dataclasses

__all__ = ['BatchingOptions']


@dataclasses.dataclass(frozen=True)
class BatchingOptions:
  """Options of length-aware batching, beside those that batching always has.

  Needs ``--experiments=smart_bucketing``.

  Args:
    max_padded_size: the largest padded size of a batch: its longest length
      times its number of elements, in units of ``length_fn``. Bounds the
      memory of a model call, which the sum of the lengths does not. An element
      that alone is larger goes alone. No bound by default.
    max_buffered_elements: how many elements of a bundle are held back at most,
      to find neighbours of similar length among them; so no batch holds more.
      More gives less padding and takes more memory.

  Raises:
    TypeError: if a value is not an int.
    ValueError: if a value is not positive.
  """
  max_padded_size: int | None = None
  # 64 batches of 32.
  max_buffered_elements: int = 2048

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if value is None and field.default is None:
        continue
      if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(
            f'BatchingOptions({field.name}={value!r}): must be an int.')
      if value <= 0:
        raise ValueError(
            f'BatchingOptions({field.name}={value!r}): must be positive.')
