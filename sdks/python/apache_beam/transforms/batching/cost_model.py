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

"""What a batch costs, learned from the time that batches took.

The model is t(n, L) = a + b*n*L + c*n*L**2 for n elements padded to length L: a
fixed part for the call, one part for what is done per token and one for
attention.
"""

import collections
import itertools
import math
import statistics
import threading
from collections.abc import Sequence

from apache_beam.transforms.batching.least_cost import Cost

__all__ = ['PRIOR', 'CostModel', 'shared_cost_model']

# A call costs as much as 64 tokens: a small encoder on a CPU is at 37 (MiniLM-L6
# on 2 cores: 8 ms a call, 220 us a token), an accelerator at thousands. Only
# the ratio matters, as the first timings set the scale.
PRIOR = Cost(fixed=64, per_token=1, per_token_squared=0)

# How many calls are remembered, and how much less each older one counts.
_MEMORY = 256
_FORGET = 0.99
# Shapes at which the prior counts as much as one call each: enough to tell the
# parts apart when all calls had one shape, too little to outweigh many.
_PRIOR_SHAPES = ((1, 32), (32, 32), (1, 512))
# Huber's constant, in median absolute deviations of the relative error.
_HUBER = 1.345 / 0.6745
_ROUNDS = 6


class CostModel:
  """Learns a Cost from timings; safe for use by several threads.

  A call that took several times too long moves it little: relative errors
  beyond the usual ones count linearly (Huber 1964), not by their square.
  """
  def __init__(self, prior: Cost = PRIOR):
    self._prior = prior
    self._calls: collections.deque[tuple[int, int, float]] = (
        collections.deque(maxlen=_MEMORY))
    self._fitted = prior
    self._calls_since_fit = 0
    self._lock = threading.Lock()

  def learn(self, count: int, longest: int, seconds: float) -> None:
    """Takes the time of a batch into account.

    Args:
      count: its number of elements.
      longest: the length that all were padded to.
      seconds: the time; one that is not positive and finite, as a clock that
        was set gives, is left out.
    """
    if count < 1 or not 0 < seconds < math.inf:
      return
    with self._lock:
      self._calls.append((count, max(longest, 1), seconds))
      self._calls_since_fit += 1

  def cost(self) -> Cost:
    """The cost as it is known now; the prior before any call."""
    with self._lock:
      # Fitting takes milliseconds, and many calls change it less than few.
      if self._calls_since_fit > len(self._calls) // 8:
        self._fitted = fit(self._calls, self._prior)
        self._calls_since_fit = 0
      return self._fitted


def fit(calls: Sequence[tuple[int, int, float]], prior: Cost) -> Cost:
  """Fits a cost to calls of (count, longest, seconds), the newest last.

  Minimises the relative errors by reweighted least squares under a, b, c >= 0.
  """
  scale = statistics.median(
      seconds / prior.of(count, longest) for count, longest, seconds in calls)
  shapes = [(*shape, scale * prior.of(*shape)) for shape in _PRIOR_SHAPES]
  rows = []
  for count, longest, seconds in (*shapes, *calls):
    tokens = count * longest
    # Divided by the time, so that the errors are relative.
    rows.append((1 / seconds, tokens / seconds, tokens * longest / seconds))
  ages = range(len(calls) - 1, -1, -1)
  base = [1.0] * len(shapes) + [_FORGET**age for age in ages]
  weights = base
  for _ in range(_ROUNDS):
    parts = _non_negative_least_squares(rows, weights)
    errors = [abs(1 - sum(p * x for p, x in zip(parts, row))) for row in rows]
    usual = max(statistics.median(errors) * _HUBER, 1e-9)
    weights = [w * min(1, usual / max(e, 1e-12)) for w, e in zip(base, errors)]
  return Cost(*parts)


def _non_negative_least_squares(rows, weights) -> tuple[float, float, float]:
  """Solves sum(parts * row) = 1 for three parts that are not negative.

  With three unknowns the best of all choices of which to leave out at zero is
  the exact answer.
  """
  columns = list(zip(*rows))
  # Scaled to one size, or the normal equations lose their digits.
  sizes = [
      math.sqrt(sum(w * x * x for w, x in zip(weights, c))) for c in columns
  ]
  normal = [[
      sum(w * x * y for w, x, y in zip(weights, columns[i], columns[j])) /
      (sizes[i] * sizes[j]) for j in range(3)
  ] for i in range(3)]
  target = [
      sum(w * x for w, x in zip(weights, columns[i])) / sizes[i]
      for i in range(3)
  ]
  best, best_gain = (0.0, 0.0, 0.0), -math.inf
  for chosen in itertools.chain.from_iterable(
      itertools.combinations(range(3), k) for k in (1, 2, 3)):
    solved = _solve([[normal[i][j] for j in chosen] for i in chosen],
                    [target[i] for i in chosen])
    if solved is None or min(solved) < 0:
      continue
    # What the solution takes off the sum of squares.
    gain = sum(x * target[i] for x, i in zip(solved, chosen))
    if gain > best_gain:
      parts = [0.0, 0.0, 0.0]
      for x, i in zip(solved, chosen):
        parts[i] = x / sizes[i]
      best, best_gain = tuple(parts), gain
  return best


def _solve(matrix: list[list[float]], target: list[float]):
  """Gauss-Jordan elimination with pivots; None if the matrix is singular."""
  size = len(target)
  rows = [[*row, value] for row, value in zip(matrix, target)]
  for i in range(size):
    pivot = max(range(i, size), key=lambda r: abs(rows[r][i]))
    if abs(rows[pivot][i]) < 1e-10:
      return None
    rows[i], rows[pivot] = rows[pivot], rows[i]
    rows[i] = [value / rows[i][i] for value in rows[i]]
    for r in range(size):
      if r != i:
        rows[r] = [a - rows[r][i] * b for a, b in zip(rows[r], rows[i])]
  return [row[-1] for row in rows]


_MODELS: dict[str, CostModel] = {}
_MODELS_LOCK = threading.Lock()


def shared_cost_model(key: str) -> CostModel:
  """The model of this process for a key, the same for all of its threads.

  It outlives bundles and windows, so what was learned is kept.
  """
  with _MODELS_LOCK:
    return _MODELS.setdefault(key, CostModel())
