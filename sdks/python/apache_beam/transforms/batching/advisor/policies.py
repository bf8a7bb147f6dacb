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

from apache_beam.transforms.batching.advisor.offline_bound import offline_bound
from apache_beam.transforms.batching.policy.fixed_boundaries import FixedBoundaries
from apache_beam.transforms.batching.policy.least_cost import Cost
from apache_beam.transforms.batching.policy.lookahead import Limits
from apache_beam.transforms.batching.policy.lookahead import take_from_full_buffers
from apache_beam.transforms.batching.policy.priced_window import PricedWindow
from apache_beam.transforms.batching.policy.replay import Batch
from apache_beam.transforms.batching.policy.replay import Model
from apache_beam.transforms.batching.policy.replay import Replayed
from apache_beam.transforms.batching.policy.replay import replay
from apache_beam.transforms.batching.policy.work_conserving import WorkConserving

# The boundaries of BatchElements in 2.77.
BEAM_DEFAULT = (16, 32, 64, 128, 256, 512)
_BUCKETS = (8, 16, 32)
# Waits of so many times the bound are those of a queue that grows.
_OVERLOADED = 4


@dataclasses.dataclass(frozen=True)
class Question:
  """What is the same for all policies.

  Args:
    cost: of a batch.
    max_batch_size: in elements.
    max_padded_size: count times longest; None: no limit.
    load: the part of the time for which the model would be busy with the real
      lengths alone; 0 for a model that takes no time.
  """
  cost: Cost
  max_batch_size: int
  max_padded_size: int | None = None
  load: float = 0.0


@dataclasses.dataclass(frozen=True)
class Figures:
  """Of one policy; None where it has none.

  Args:
    padding_ratio: padded over real size.
    cost_ratio: the cost, calls and padded size, over the real size.
    batches: their number.
    mean_batch_size: in elements.
    wait_p50: in seconds, until the batch of an element is flushed.
    latency_p50: in seconds, until the model has returned it.
  """
  padding_ratio: float | None
  cost_ratio: float
  batches: int | None
  mean_batch_size: float | None
  wait_p50: float | None
  wait_p95: float | None
  wait_max: float | None
  latency_p50: float | None
  latency_p95: float | None


_OF_TIME = ('wait_p50', 'wait_p95', 'wait_max', 'latency_p50', 'latency_p95')
_NOT_OF_A_BOUND = ('batches', 'mean_batch_size', *_OF_TIME)


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
  """All policies on a virtual clock, and which boundaries were the best.

  While the model runs, elements wait longer than max_wait_secs. So the offline
  bound is that of any policy which lets none wait longer than smart_cost did. It
  is left out where the model is overloaded.
  """
  model = model_of(lengths, times, question)

  def run(policy):
    return _replayed(
        replay(lengths, times, policy, max_wait_secs, model), question)

  def buckets(boundaries):
    return run(
        FixedBoundaries(
            boundaries, question.max_batch_size, question.max_padded_size))

  hindsight = {
      kind: buckets(boundaries)
      for kind, boundaries in _all_boundaries(lengths).items()
  }
  best = min(hindsight, key=lambda kind: hindsight[kind].cost_ratio)
  limits = question.cost, question.max_batch_size, question.max_padded_size
  figures = {
      'arrival': buckets(()),
      'beam_default': buckets(BEAM_DEFAULT),
      'best_boundaries': hindsight[best],
      'smart': run(WorkConserving(*limits)),
      'smart_cost': run(PricedWindow(*limits)),
  }
  longest_wait = max(max_wait_secs, figures['smart_cost'].wait_max)
  if longest_wait <= _OVERLOADED * max_wait_secs:
    bound = offline_bound(
        lengths, times, question.cost, question.max_batch_size, longest_wait)
    figures['offline_bound'] = Figures(
        padding_ratio=None,
        cost_ratio=bound / sum(lengths),
        **dict.fromkeys(_NOT_OF_A_BOUND))
  return figures, best


def model_of(
    lengths: Sequence[int], times: Sequence[float],
    question: Question) -> Model:
  """The model that is busy as the load says while elements arrive."""
  span = times[-1] - times[0]
  return Model(question.cost, question.load * span / sum(lengths))


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
  waits, latencies = sorted(replayed.waits), sorted(replayed.latencies)
  last = -(-95 * len(waits) // 100) - 1
  return dataclasses.replace(
      _figures(replayed.batches, question),
      wait_p50=statistics.median(waits),
      wait_p95=waits[last],
      wait_max=waits[-1],
      latency_p50=statistics.median(latencies),
      latency_p95=latencies[last])


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
      **dict.fromkeys(_OF_TIME))
