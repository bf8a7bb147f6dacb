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
import itertools
import math
from bisect import bisect_left
from bisect import bisect_right
from collections.abc import Sequence

__all__ = ['Cost', 'least_cost_cut']


@dataclasses.dataclass(frozen=True)
class Cost:
  """What a batch costs, when its elements are padded to the longest.

  All values are in seconds; or, as only ratios matter to a cut, in the time
  that a token takes, so that ``per_token`` is 1. Tokens are units of length.

  Args:
    fixed: of a call, such as its launch and reading the weights.
    per_token: of each token, padding too.
    per_token_squared: of each pair of tokens of an element, as in attention.

  Raises:
    ValueError: if a value is negative or not finite.
  """
  fixed: float
  per_token: float
  per_token_squared: float = 0

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      if not 0 <= value < math.inf:
        raise ValueError(
            f'Cost({name}={value!r}): must be finite and not negative.')

  def of(self, count: int, longest: int) -> float:
    """The cost of a batch of ``count`` elements padded to ``longest``."""
    return self.fixed + count * self.of_element(longest)

  def of_element(self, longest: int) -> float:
    """What one more element adds to a batch padded to ``longest``."""
    return self.per_token * longest + self.per_token_squared * longest**2


def least_cost_cut(
    lengths: Sequence[int],
    cost: Cost,
    sums: Sequence[tuple[Sequence[int], int]] = (),
    max_padded_size: int | None = None) -> list[int]:
  """Cuts a buffer into runs of neighbours of the least total cost.

  Args:
    lengths: the length of each element, ascending.
    cost: what a batch costs.
    sums: what is added up and its limit, as for ``take_longest``: pairs of one
      value, 0 or more, for each element and the largest sum of a batch.
    max_padded_size: the largest ``padded_size``; None for no bound.

  Returns:
    Where the batches end, ascending: batch k is
    ``lengths[ends[k - 1]:ends[k]]``. An element over a limit goes alone. Of
    cuts that cost the same it is one of the fewest batches. Exact for whole
    numbers, else up to rounding.
  """
  starts = _earliest_starts(lengths, sums, max_padded_size)
  best_starts = _best_starts(cost, [*map(cost.of_element, lengths)], starts)
  ends = []
  end = len(lengths)
  while end:
    ends.append(end)
    end = best_starts[end - 1]
  return ends[::-1]


def _earliest_starts(lengths, sums, max_padded_size):
  """How far back the limits let a batch reach, by its last element."""
  starts = [0] * len(lengths)
  for values, limit in sums:
    totals = list(itertools.accumulate(values, initial=0))
    for last, start in enumerate(starts):
      starts[last] = bisect_left(totals, totals[last + 1] - limit, start, last)
  if max_padded_size is not None:
    for last, length in enumerate(lengths):
      if length > 0:
        start = last + 1 - max_padded_size // length
        starts[last] = min(last, max(starts[last], start))
  return starts


def _best_starts(cost, element_costs, earliest_starts):
  """Where the last batch of the best cut starts, by its last element.

  The longer the last element, the more each element in its batch costs, so a
  start that is once better than an earlier one stays better; the limits too
  rule out earlier ones first. The queue hence holds starts in order, each with
  its turn: the first last element for which it is the best so far. A new start
  removes those which it overtakes before their turn. O(n log n); Hirschberg and
  Larmore, The Least Weight Subsequence Problem, SIAM J. Comput. 16 (1987).
  """
  least = [0]  # The least cost, by number of elements.
  best_starts = []
  queue = collections.deque([(0, 0)])
  for last, each in enumerate(element_costs):
    while last:
      turn = _turn(last, queue[-1][1], least, element_costs, earliest_starts)
      if turn > queue[-1][0]:
        queue.append((turn, last))
        break
      queue.pop()
    if len(queue) > 1 and queue[1][0] <= last:
      queue.popleft()
    start = queue[0][1]
    best_starts.append(start)
    least.append(least[start] + cost.fixed + (last + 1 - start) * each)
  return best_starts


def _turn(start, earlier, least, element_costs, earliest_starts):
  """The first last element for which ``start`` is better than ``earlier``.

  There ``earlier`` is too far back, or the elements between the two cost more
  in the last batch than in those before it.
  """
  too_far = bisect_right(earliest_starts, earlier, start)
  each = (least[start] - least[earlier]) / (start - earlier)
  return bisect_right(element_costs, each, start, too_far)
