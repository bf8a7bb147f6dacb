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

"""A bound of what any policy must pay that lets nothing wait too long."""

from bisect import bisect_left
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from apache_beam.transforms.batching.policy.least_cost import Cost

# How much of a full batch's share of a call counts as an element's own size.
_SHARES = (1.0, 2.0, 4.0)


def offline_bound(
    lengths: Sequence[int],
    times: Sequence[float],
    cost: Cost,
    max_batch_size: int,
    max_wait_secs: float) -> float:
  """No policy costs less, even one that knows all arrivals.

  Elements of one batch arrive within the wait of one another. Give each element
  any size q > 0; then the cost t of all batches S is the sum over elements i of
  q[i] * t(S) / q(S), which is at least the sum of q[i] times the least t(S) / q(S)
  of the batches that i could be in. Of those the best has, for its longest
  length, the largest q that arrive within the wait of i. Batches that are the
  best for several elements need not exist side by side, so the bound is not
  reached.

  Args:
    lengths: of the elements.
    times: in seconds, when each arrives; ascending.
    cost: of a batch.
    max_batch_size: the most elements of a batch.
    max_wait_secs: how long an element may wait.

  Returns:
    In units of the cost. O(n * m * max_batch_size) for m elements in twice the
    wait.

  Raises:
    ValueError: if the wait is negative.
  """
  if max_wait_secs < 0:
    raise ValueError(f'max_wait_secs={max_wait_secs!r} must not be negative.')
  arguments = lengths, times, cost, max_batch_size, max_wait_secs
  return max(
      sum(_least(*arguments, share, index) for index in range(len(lengths)))
      for share in _SHARES)


def _least(lengths, times, cost, max_batch_size, max_wait_secs, share, index):
  """The least that an element's part of any of its batches can cost."""
  low = bisect_left(times, times[index] - max_wait_secs)
  high = bisect_right(times, times[index] + max_wait_secs)
  near = np.sort(np.array(lengths[low:high], dtype=float))
  own = int(np.searchsorted(near, lengths[index]))
  size = _sizes(near, cost, share / max_batch_size)
  before = np.concatenate([[0.0], np.cumsum(size)])
  # The last element of the batch, and how many elements it has.
  last = np.arange(own, len(near))[:, None]
  count = np.arange(1, min(max_batch_size, len(near)) + 1)[None, :]
  first = last + 1 - count
  longest = near[last]
  tokens = count * longest
  total = cost.fixed + tokens * (
      cost.per_token + cost.per_token_squared * longest +
      cost.per_batch_squared * tokens)
  # Those next to the longest, with the element in place of the shortest.
  start = np.maximum(first, 0)
  sizes = before[last + 1] - before[start]
  apart = first > own
  sizes = np.where(apart, sizes - size[start] + size[own], sizes)
  possible = (first >= 0) & ((count > 1) | (last == own))
  ratios = np.where(possible, total / np.maximum(sizes, 1e-300), np.inf)
  return size[own] * ratios.min()


def _sizes(lengths, cost, share):
  linear = cost.per_token + cost.per_token_squared * lengths
  return np.maximum(lengths * linear + share * cost.fixed, 1e-9)
