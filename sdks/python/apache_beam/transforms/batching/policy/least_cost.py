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

"""Where to cut a buffer, sorted by length, so that its batches cost least.

Cutting a batch in two saves padding and pays for one more call.
"""

import collections
import dataclasses
import math
from bisect import bisect_right
from collections.abc import Sequence


def padded_size(lengths: Sequence[int]) -> int:
  """The size of a batch whose elements are all padded to the longest."""
  return max(lengths) * len(lengths) if lengths else 0


@dataclasses.dataclass(frozen=True)
class Cost:
  """What a batch costs, when its elements are padded to the longest.

  All values are in seconds; or, as only ratios matter to a cut, in the time
  that a token takes, so that ``per_token`` is 1. Tokens are units of length.

  Args:
    fixed: of a call, such as its launch and reading the weights.
    per_token: of each token, padding too.
    per_token_squared: of each pair of tokens of an element, as in attention.
    per_batch_squared: of each pair of tokens of the batch, as where a batch
      outgrows a cache: MiniLM-L6 on 2 cores takes 176 us a token for 4 texts
      of 512 tokens and 247 us for 32.

  Raises:
    ValueError: if a value is negative or not finite.
  """
  fixed: float
  per_token: float
  per_token_squared: float = 0
  per_batch_squared: float = 0

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      if not 0 <= value < math.inf:
        raise ValueError(
            f'Cost({name}={value!r}): must be finite and not negative.')

  def of(self, count: int, longest: int) -> float:
    """The cost of a batch of ``count`` elements padded to ``longest``."""
    tokens = count * longest
    return (
        self.fixed + count * self.of_element(longest) +
        self.per_batch_squared * tokens * tokens)

  def of_element(self, longest: int) -> float:
    """What an element adds, padded to ``longest``, in a small batch."""
    return (self.per_token + self.per_token_squared * longest) * longest

  def of_elements(self, lengths: Sequence[int]) -> list[float]:
    """As ``of_element``, which would take a call for each."""
    linear, square = self.per_token, self.per_token_squared
    return [(linear + square * length) * length for length in lengths]


def least_cost_cut(
    lengths: Sequence[int],
    cost: Cost,
    sums: Sequence[tuple[Sequence[float], float]] = (),
    max_padded_size: float | None = None,
    max_variable_cost: float | None = None,
    min_batch_size: int = 1) -> list[int]:
  """Cuts a buffer into runs of neighbours of the least total cost.

  Args:
    lengths: the length of each element, ascending.
    cost: what a batch costs.
    sums: what is added up and its limit, such as ones or weights: pairs of
      one value, 0 or more, for each element and the largest sum of a batch.
    max_padded_size: the largest ``padded_size``; None for no bound.
    max_variable_cost: the largest cost of a batch beside its fixed part; None
      for no bound.
    min_batch_size: how many elements a batch has at least, where that is
      possible: of all cuts within the limits it is one of the fewest smaller
      batches, and of these one that costs least.

  Returns:
    Where the batches end, ascending: batch k is
    ``lengths[ends[k - 1]:ends[k]]``. An element over a limit goes alone. Of
    cuts that cost the same it is one of the fewest batches. Exact for whole
    numbers, else up to rounding.
  """
  element_costs = cost.of_elements(lengths)
  pair_costs = [cost.per_batch_squared * length * length for length in lengths]
  starts = _earliest_starts(lengths, sums)
  if max_padded_size is not None:
    _bound_products(starts, lengths, max_padded_size)
  if max_variable_cost is not None:
    _bound_costs(starts, element_costs, pair_costs, max_variable_cost)
  best_starts = _best_starts(
      cost, element_costs, pair_costs, starts, min_batch_size)
  ends = []
  end = len(lengths)
  while end:
    ends.append(end)
    end = best_starts[end - 1]
  return ends[::-1]


def _earliest_starts(lengths, sums):
  """How far back the limits of sums let a batch reach, by its last element."""
  starts = [0] * len(lengths)
  for values, limit in sums:
    start = total = 0
    for last, value in enumerate(values):
      total += value
      while total > limit and start < last:
        total -= values[start]
        start += 1
      if start > starts[last]:
        starts[last] = start
  return starts


def _bound_products(starts, values, limit):
  """Moves starts so that the last value times the count is within a limit."""
  for last, value in enumerate(values):
    if value > 0:
      start = last + 1 - int(limit // value)
      starts[last] = min(last, max(starts[last], start))


def _bound_costs(starts, element_costs, pair_costs, limit):
  """Moves starts so that n * element + n**2 * pair is within a limit."""
  for last, (element, pair) in enumerate(zip(element_costs, pair_costs)):
    count = last + 1 - starts[last]
    if count * (element + count * pair) > limit:
      root = element + math.sqrt(element * element + 4 * pair * limit)
      most = int(2 * limit // root) if root else 0
      starts[last] = min(last, last + 1 - most)


def _best_starts(
    cost, element_costs, pair_costs, earliest_starts, min_batch_size):
  """Where the last batch of the best cut starts, by its last element.

  The longer the last element, the more each element in its batch costs, so a
  start that is once better than an earlier one stays better; the limits too
  rule out earlier ones first. The queue hence holds starts in order, each with
  its turn: the first last element for which it is the best so far. A new start
  removes those which it overtakes before their turn. O(n log n); Hirschberg and
  Larmore, The Least Weight Subsequence Problem, SIAM J. Comput. 16 (1987).

  A start joins the queue once its batch has the minimum of elements. Smaller
  batches, each of which costs more than any cut, are compared one by one, and
  only where there is none without them.
  """
  end = len(element_costs)
  small = 1 + end * (
      cost.fixed + max(element_costs, default=0) +
      end * max(pair_costs, default=0))
  least = [0]  # The least cost, by number of elements.
  best_starts = []
  queue = collections.deque([(0, 0)])

  def total(start, last):
    count = last + 1 - start
    return (
        least[start] + cost.fixed + count * element_costs[last] +
        count * count * pair_costs[last] +
        (small if count < min_batch_size else 0))

  for last in range(end):
    new = last + 1 - min_batch_size
    while new > 0:
      turn, earlier = queue[-1]
      limit = (least[new] - least[earlier]) / (new - earlier)
      both = new + earlier
      # ``earlier`` is overtaken where it is too far back, or where an element
      # between the two costs more in the last batch than in those before it.
      if turn >= last and (turn == end or earliest_starts[turn] > earlier or
                           element_costs[turn] + pair_costs[turn] *
                           (2 * turn + 2 - both) > limit):
        queue.pop()
        if queue:
          continue
        queue.append((last, new))
        break
      too_far = bisect_right(earliest_starts, earlier, last)
      if cost.per_batch_squared:
        turn = bisect_right(
            range(end),
            limit,
            last,
            too_far,
            key=lambda i: element_costs[i] + pair_costs[i] * (2 * i + 2 - both))
      else:
        turn = bisect_right(element_costs, limit, last, too_far)
      queue.append((turn, new))
      break
    while len(queue) > 1 and queue[1][0] <= last:
      queue.popleft()
    start, value = queue[0][1], math.inf
    if earliest_starts[last] <= start <= new:
      value = total(start, last)
    if value >= small:
      first = max(earliest_starts[last], new + 1)
      value, start = min([(value, start)] + [(total(other, last), other)
                                             for other in range(first, last + 1)])
    best_starts.append(start)
    least.append(value)
  return best_starts
