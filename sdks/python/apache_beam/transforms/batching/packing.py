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

"""Where to cut a buffer, sorted by length, into batches.

Every batch is a run of neighbours in sorted order. Where all batches are full no
other grouping pads less: the k-th longest of the batches' longest elements is at
least the k-th of these.
"""

from collections.abc import Sequence

__all__ = ['padded_size', 'take_longest']


def padded_size(lengths: Sequence[int]) -> int:
  """The size of a batch whose elements are all padded to the longest."""
  return max(lengths) * len(lengths) if lengths else 0


def take_longest(
    lengths: Sequence[int],
    sums: Sequence[tuple[Sequence[int], int]],
    max_padded_size: int | None = None) -> int:
  """How many of the longest elements make the next batch.

  Starting at the long end leaves the incomplete batch to the short end, where
  a call that is not full wastes least.

  Args:
    lengths: the length of each element, ascending and not empty.
    sums: what is added up and its limit, as pairs of one value for each
      element and the largest sum; such as sizes, mostly 1, and weights.
    max_padded_size: the largest ``padded_size``; None for no bound.

  Returns:
    The number of elements to take from the end: as many as the limits allow,
    and at least one, so that an element over a limit goes alone.
  """
  most = len(lengths)
  if max_padded_size is not None and lengths[-1] > 0:
    most = min(most, max_padded_size // lengths[-1])
  for values, limit in sums:
    most = min(most, _longest_tail(values, limit, most))
  return max(1, most)


def _longest_tail(values: Sequence[int], limit: int, most: int) -> int:
  """How many values from the end, at most ``most``, add up to the limit."""
  total = 0
  for count in range(most):
    total += values[-1 - count]
    if total > limit:
      return count
  return most
