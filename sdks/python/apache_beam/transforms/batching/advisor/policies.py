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

"""What each policy makes of the same arrivals."""

import dataclasses
import statistics
from collections.abc import Callable
from collections.abc import Sequence
from itertools import product

import numpy as np

from apache_beam.transforms.batching.fixed_boundaries import FixedBoundaries
from apache_beam.transforms.batching.least_cost import Cost
from apache_beam.transforms.batching.lookahead import Limits
from apache_beam.transforms.batching.lookahead import take_from_full_buffers
from apache_beam.transforms.batching.offline_bound import offline_bound
from apache_beam.transforms.batching.priced_window import PricedWindow
from apache_beam.transforms.batching.replay import Batch
from apache_beam.transforms.batching.replay import Replayed
from apache_beam.transforms.batching.replay import replay

__all__ = ['Figures', 'Question', 'frontier', 'under_a_wait', 'within_bundles']

# Those of BatchElements in 2.77.
_BEAM_DEFAULT = (16, 32, 64, 128, 256, 512)
_BUCKETS = (8, 16, 32)
_FRONTIER = tuple(step / 10 for step in range(11))


@dataclasses.dataclass(frozen=True)
class Question:
  """What is the same for all policies."""
  cost: Cost
  max_batch_size: int
  max_padded_size: int | None = None


@dataclasses.dataclass(frozen=True)
class Figures:
  """Of one policy; None where it has none.

  Args:
    padding_ratio: padded over real size.
    cost_ratio: the cost, calls and padded size, over the real size.
    batches: their number.
    mean_batch_size: in elements.
    wait_p50: in seconds, as are the other two.
  """
  padding_ratio: float | None
  cost_ratio: float
  batches: int | None
  mean_batch_size: float | None
  wait_p50: float | None
  wait_p95: float | None
  wait_max: float | None


def within_bundles(lengths: Sequence[int], question: Question,
                   lookahead: int) -> dict[str, Figures]:
  """Arrival order, sorted buffers and the least-cost cut, without waits."""
  size = question.max_batch_size
  held = lookahead * size
  by_length = [
      length for start in range(0, len(lengths), held)
      for length in sorted(lengths[start:start + held])
  ]
  runs = take_from_full_buffers(
      lengths,
      held,
      question.cost,
      size,
      Limits(max_padded_size=question.max_padded_size))
  return {
      'arrival': _figures(_fixed(lengths, size), question),
      'sorted': _figures(_fixed(by_length, size), question),
      'smart': _figures([_batch(run) for run in runs], question),
  }


def under_a_wait(
    lengths: Sequence[int],
    times: Sequence[float],
    question: Question,
    max_wait_secs: float) -> tuple[dict[str, Figures], str]:
  """All policies on a virtual clock, and which boundaries were the best."""
  def run(policy):
    return _replayed(replay(lengths, times, policy, max_wait_secs), question)

  def buckets(boundaries):
    return run(
        FixedBoundaries(
            boundaries, question.max_batch_size, question.max_padded_size))

  hindsight = {
      kind: buckets(boundaries)
      for kind, boundaries in _all_boundaries(lengths).items()
  }
  best = min(hindsight, key=lambda kind: hindsight[kind].cost_ratio)
  bound = offline_bound(
      lengths, times, question.cost, question.max_batch_size, max_wait_secs)
  return {
      'arrival': buckets(()),
      'beam_default': buckets(_BEAM_DEFAULT),
      'best_boundaries': hindsight[best],
      'smart': run(_priced_window(question)),
      'offline_bound': Figures(
          None, bound / sum(lengths), None, None, None, None, None),
  }, best


def frontier(
    lengths: Sequence[int],
    times: Sequence[float],
    question: Question,
    max_wait_secs: float) -> list[Figures]:
  """The priced window from as full as it pays to at once."""
  return [
      _replayed(
          replay(
              lengths, times, _priced_window(question, hurry), max_wait_secs),
          question) for hurry in _FRONTIER
  ]


def _priced_window(question, hurry=0.0):
  return PricedWindow(
      question.cost, question.max_batch_size, hurry, question.max_padded_size)


def _all_boundaries(lengths) -> dict[str, list[int]]:
  low, high = max(1, min(lengths)), max(2, max(lengths))
  kinds: dict[str, Callable] = {
      'quantile': lambda n: np.quantile(lengths, np.linspace(0, 1, n + 1)),
      'geometric': lambda n: np.geomspace(low, high, n + 1),
      # As many as there are; the largest ones.
      'power of two': lambda n: 2.0**np.arange(high.bit_length() + 1)[-n - 1:],
  }
  return {
      f'{kind}, {n} buckets': sorted(
          {max(1, int(edge))
           for edge in edges(n)[1:-1]})
      for (kind, edges), n in product(kinds.items(), _BUCKETS)
  }


def _batch(lengths):
  return Batch(len(lengths), max(lengths), sum(lengths))


def _fixed(lengths, size):
  return [
      _batch(lengths[start:start + size])
      for start in range(0, len(lengths), size)
  ]


def _replayed(replayed: Replayed, question) -> Figures:
  waits = sorted(replayed.waits)
  return dataclasses.replace(
      _figures(replayed.batches, question),
      wait_p50=statistics.median(waits),
      wait_p95=waits[-(-95 * len(waits) // 100) - 1],
      wait_max=waits[-1])


def _figures(batches: Sequence[Batch], question) -> Figures:
  real = sum(b.real for b in batches)
  padded = sum(b.count * b.longest for b in batches)
  cost = sum(question.cost.of(b.count, b.longest) for b in batches)
  elements = sum(b.count for b in batches)
  return Figures(
      padding_ratio=padded / real,
      cost_ratio=cost / real,
      batches=len(batches),
      mean_batch_size=elements / len(batches),
      wait_p50=None,
      wait_p95=None,
      wait_max=None)
