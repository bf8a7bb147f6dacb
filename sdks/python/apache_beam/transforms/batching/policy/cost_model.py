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

The model is t(n, L) = a + b*n*L + c*n*L**2 + d*(n*L)**2 for n elements padded to
length L: a fixed part for the call, one part for what is done per token, one for
attention and one for batches that outgrow a cache.
"""

import collections
import dataclasses
import itertools
import math
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from apache_beam.transforms.batching.policy.least_cost import Cost

# A call costs as much as 64 tokens: a small encoder on a CPU is at 37 (MiniLM-L6
# on 2 cores: 8 ms a call, 220 us a token), an accelerator at thousands. Only
# the ratio matters, as the first timings set the scale.
PRIOR = Cost(fixed=64, per_token=1)

# How many calls are remembered, and how much less each older one counts.
_MEMORY = 256
_FORGET = 0.99
# Shapes at which the prior counts at first as much as one call each, and after
# so many calls half of that: enough to tell the parts apart when all calls had one
# shape, too little to outweigh many.
_PRIOR_SHAPES = ((1, 32), (32, 32), (1, 512))
_PRIOR_CALLS = 8
# Huber's constant, in median absolute deviations of the relative error.
_HUBER = 1.345 / 0.6745
# Errors that are no outliers even where nearly all calls are of one size and
# fitted exactly: the few of other sizes tell the parts apart.
_USUAL_ERROR = 0.02
# Seconds that Beam itself takes for a batch, about. Without a fixed part batches
# of one would be as good as others.
_LEAST_FIXED = 1e-4
_ROUNDS = 6
# Of how many calls the share of new shapes is taken.
_LATELY = 32
# How many shapes are remembered.
_MOST_SHAPES = 4096
# How much of the usual number of elements is the last batch's.
_USUAL_RATE = 1 / 8
# Which of the five parts are not zero, as ones.
_CHOICES = np.array([*itertools.product((0.0, 1.0), repeat=5)][1:])


class Call(NamedTuple):
  count: int
  longest: int
  seconds: float
  is_new: bool


class CostModel:
  """Learns a Cost from timings; safe for use by several threads.

  A call that took several times too long moves it little: relative errors
  beyond the usual ones count linearly (Huber 1964), not by their square. Where
  a shape that was not seen before is compiled, its first call tells what that
  takes, not what a call costs.
  """
  def __init__(self, prior: Cost = PRIOR):
    self._prior = prior
    self._calls: collections.deque[Call] = collections.deque(maxlen=_MEMORY)
    # The newest last.
    self._shapes: dict[tuple[int, int], None] = {}
    self._fitted = prior
    self._calls_since_fit = 0
    self._largest_count = 0
    self._largest_size = 0
    self._usual_count = 1.0
    self._lock = threading.Lock()

  @property
  def is_learned(self) -> bool:
    """Whether the cost is in seconds; before any call it is the prior."""
    return bool(self._calls)

  @property
  def is_settled(self) -> bool:
    """Whether as many calls are remembered as can be."""
    return len(self._calls) == _MEMORY

  @property
  def largest_count(self) -> int:
    """The most elements of a call so far; 0 before any."""
    return self._largest_count

  @property
  def largest_size(self) -> int:
    """The largest padded size of a call so far; 0 before any."""
    return self._largest_size

  @property
  def usual_count(self) -> float:
    """How many elements calls lately have, on average; 1 before any."""
    return self._usual_count

  @property
  def fitted(self) -> Cost:
    """The cost as it was when it was last asked for."""
    return self._fitted

  def learn(self, count: int, longest: int, seconds: float) -> None:
    """Takes the time of a batch into account.

    Args:
      count: its number of elements.
      longest: the length that all were padded to.
      seconds: the time; one that is not positive and finite, as a clock that
        was set gives, is left out.
    """
    with self._lock:
      self._usual_count += (count - self._usual_count) * _USUAL_RATE
      self._largest_count = max(self._largest_count, count)
      is_largest = count * longest > self._largest_size
      self._largest_size = max(self._largest_size, count * longest)
      if count > 0 and 0 < seconds < math.inf:
        is_new = self._is_new_shape((count, longest))
        self._calls.append(Call(count, max(longest, 1), seconds, is_new))
        # The next may be larger still, so what it costs must be known.
        self._calls_since_fit += len(self._calls) if is_largest else 1

  def cost(self) -> Cost:
    """The cost as it is known now; the prior before any call."""
    with self._lock:
      # Fitting takes a millisecond, and many calls change it less than few.
      if self._calls_since_fit > len(self._calls) // 2:
        self._fitted = fit(self._calls, self._prior)
        self._calls_since_fit = 0
      return self._fitted

  def _is_new_shape(self, shape):
    is_new = self._shapes.pop(shape, self) is self
    self._shapes[shape] = None
    if len(self._shapes) > _MOST_SHAPES:
      del self._shapes[next(iter(self._shapes))]
    return is_new


def fit(calls: Sequence[Call], prior: Cost) -> Cost:
  """Fits a cost to calls, the newest last.

  Minimises the relative errors by reweighted least squares; no part is negative.
  A fifth part is what the first call of a shape takes beside; the fixed part of
  the cost has it by the share of calls that lately were such.
  """
  count, longest, seconds, is_new = np.array(calls, dtype=float).T
  prior_parts = np.array([*dataclasses.astuple(prior), 0.0])
  known = _rows(*np.array(_PRIOR_SHAPES, dtype=float).T)
  rows = _rows(count, longest, is_new)
  scale = np.median(seconds / (rows @ prior_parts))
  # Divided by the time, so that the errors are relative.
  rows = np.concatenate(
      [known / (scale * known @ prior_parts)[:, None], rows / seconds[:, None]])
  ages = np.arange(len(calls) - 1, -1, -1)
  base = np.concatenate([
      np.full(len(known), _PRIOR_CALLS / (_PRIOR_CALLS + len(calls))),
      _FORGET**ages
  ])
  weights = base
  for _ in range(_ROUNDS):
    parts = _non_negative_least_squares(rows, weights)
    errors = np.abs(1 - rows @ parts)
    usual = max(np.median(errors) * _HUBER, _USUAL_ERROR)
    weights = base * np.minimum(1, usual / np.maximum(errors, 1e-12))
  *cost, first = parts.tolist()
  fixed = cost[0] + first * float(is_new[-_LATELY:].mean())
  return Cost(max(fixed, _LEAST_FIXED), *cost[1:])


def _rows(count, longest, is_new=None):
  """What the parts of a cost are multiplied by; one row for each call."""
  tokens, ones = count * longest, np.ones_like(count)
  is_new = 0 * ones if is_new is None else is_new
  return np.stack([ones, tokens, tokens * longest, tokens**2, is_new], 1)


def _non_negative_least_squares(rows, weights):
  """Solves rows @ parts = 1 for five parts that are not negative.

  With so few unknowns the best of all choices of which to leave out at zero is
  the exact answer.
  """
  # Scaled to one size, or the normal equations lose their digits.
  sizes = np.maximum(np.sqrt(weights @ rows**2), 1e-300)
  scaled = rows / sizes
  normal = scaled.T @ (scaled * weights[:, None])
  target = weights @ scaled
  pairs = _CHOICES[:, :, None] * _CHOICES[:, None, :]
  solved = _CHOICES * np.einsum(
      'cij,cj->ci',
      np.linalg.pinv(pairs * normal, hermitian=True),
      _CHOICES * target)
  # What each solution takes off the sum of squares.
  gains = np.where((solved >= 0).all(1), solved @ target, -math.inf)
  return solved[gains.argmax()] / sizes
