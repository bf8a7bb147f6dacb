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

"""How long elements wait by policy, simulated: one worker that calls the model.

Two models of a call, six loads, Poisson arrivals of log-normal lengths, and a
bound of 2 s. Against 2.77's buckets, and two simple rules: `drained` lets in all
that has queued and then flushes all of it, cut at least cost; `oldest` flushes
the batch of the oldest element once it has waited for what a call lately took.
"""

import dataclasses
import math
import random
import statistics
from bisect import bisect_left
from collections.abc import Callable
from collections.abc import Sequence

from apache_beam.transforms.batching.advisor.policies import BEAM_DEFAULT
from apache_beam.transforms.batching.policy.fixed_boundaries import FixedBoundaries
from apache_beam.transforms.batching.policy.flushing import FlushPolicy
from apache_beam.transforms.batching.policy.least_cost import Cost
from apache_beam.transforms.batching.policy.priced_window import PricedWindow
from apache_beam.transforms.batching.policy.replay import Model
from apache_beam.transforms.batching.policy.replay import replay
from apache_beam.transforms.batching.policy.work_conserving import WorkConserving

MAX_WAIT_SECS = 2.0
LOADS = (0.1, 0.2, 0.5, 0.8, 0.95, 1.2)
_BATCH_SIZE = 32
_COUNT = 3000
# Seconds of a call and of a token: as MiniLM on 2 cores, and as on a GPU.
_CALLS = {'8 ms, 140 us': (0.008, 0.00014), '20 ms, 4 us': (0.020, 0.000004)}


@dataclasses.dataclass(frozen=True)
class Figure:
  """Of one way at one load; latencies in seconds."""
  call: str
  load: float
  way: str
  per_second: float
  p50: float
  p95: float
  longest: float
  calls: int


def run() -> list[Figure]:
  figures = []
  draw = random.Random(1)
  lengths = [
      int(min(512, max(4, draw.lognormvariate(4.3, 1.0))))
      for _ in range(_COUNT)
  ]
  for call, (fixed, per_token) in _CALLS.items():
    mean = statistics.mean(lengths)
    capacity = 1 / (fixed / 16 + per_token * mean * 1.03)
    cost = Cost(fixed / per_token, 1)
    model = Model(cost, per_token, min(0.002, 0.1 / capacity))
    for load in LOADS:
      times = _arrivals(load * capacity)
      for way, simulate in _ways(cost).items():
        figures.append(
            _figure(call, load, way, *simulate(lengths, times, model)))
  return figures


def table(figures: list[Figure]) -> str:
  lines = [
      '| call, token | load | way | texts/s | p50, s | p95, s | longest, s | calls |',
      '|---|---|---|---|---|---|---|---|'
  ]
  lines += [
      f'| {f.call} | {f.load:g} | {f.way} | {f.per_second:.1f} | {f.p50:.3f} | '
      f'{f.p95:.3f} | {f.longest:.2f} | {f.calls:,} |' for f in figures
  ]
  return '\n'.join(lines)


def _arrivals(rate):
  draw, now, times = random.Random(2), 0.0, []
  for _ in range(_COUNT):
    now += draw.expovariate(rate)
    times.append(now)
  return times


def _ways(cost) -> dict[str, Callable]:
  def of(policy: FlushPolicy, max_wait=MAX_WAIT_SECS):
    def simulate(lengths, times, model):
      done = replay(lengths, times, policy, max_wait, model)
      return done.latencies, done.secs, len(done.batches)

    return simulate

  return {
      '2.77, batches of 8': of(FixedBoundaries(BEAM_DEFAULT, 8)),
      '2.77, batches of 32': of(FixedBoundaries(BEAM_DEFAULT, 32)),
      'cost': of(PricedWindow(cost, _BATCH_SIZE)),
      'latency': of(WorkConserving(cost, _BATCH_SIZE)),
      # The model is always overloaded: all that is buffered is flushed.
      'drained': of(WorkConserving(cost, _BATCH_SIZE), 0),
      'oldest': _oldest,
  }


def _figure(call, load, way, latencies, seconds, calls):
  late = sorted(latencies)
  return Figure(
      call,
      load,
      way,
      len(late) / seconds,
      statistics.median(late),
      late[int(0.95 * len(late))],
      late[-1],
      calls)


class _Worker:
  """Adds elements, and runs batches of those that wait, ascending by length."""
  def __init__(self, lengths, times, model: Model):
    self._lengths, self.times, self._model = lengths, times, model
    self.now, self.added, self.calls = times[0], 0, 0
    # Pairs of a length and an index.
    self.waiting: list[tuple[int, int]] = []
    self.latencies: list[float] = []

  def arrival(self):
    if self.added == len(self.times):
      return math.inf
    return self.times[self.added]

  def add(self):
    self.now = max(self.now, self.arrival()) + self._model.secs_to_add
    key = self._lengths[self.added], self.added
    self.waiting.insert(bisect_left(self.waiting, key), key)
    self.added += 1

  def call(self, start: int, end: int) -> float:
    batch = self.waiting[start:end]
    del self.waiting[start:end]
    took = self._model.secs_per_cost * self.cost(len(batch), batch[-1][0])
    self.now += took
    self.calls += 1
    self.latencies += [self.now - self.times[index] for _, index in batch]
    return took

  def cost(self, count, longest):
    return self._model.cost.of(count, longest)

  def answer(self):
    return self.latencies, self.now - self.times[0], self.calls


def _oldest(lengths: Sequence[int], times: Sequence[float], model: Model):
  worker = _Worker(lengths, times, model)
  patience = secs_of_call = 0.0
  while worker.added < len(times) or worker.waiting:
    first = min((index for _, index in worker.waiting), default=None)
    due = math.inf if first is None else times[first] + patience
    if worker.arrival() <= worker.now or worker.arrival() < due:
      worker.add()
      continue
    worker.now = max(worker.now, due)
    took = worker.call(*_worth_most(worker, first))
    secs_of_call += 0.3 * (took - secs_of_call)
    patience = min(MAX_WAIT_SECS, secs_of_call)
  return worker.answer()


def _worth_most(worker, first):
  """The neighbours of an element whose prices exceed their cost the most."""
  found = [length for length, _ in worker.waiting]
  index = next(
      i for i, (_, number) in enumerate(worker.waiting) if number == first)
  fixed = worker.cost(0, 0)
  paid = [0.0]
  for length in found:
    paid.append(paid[-1] + fixed / 8 + 1.05 * length)
  spans = [
      (start, end)
      for start in range(max(0, index - _BATCH_SIZE + 1), index + 1)
      for end in range(index + 1, min(len(found), start + _BATCH_SIZE) + 1)
  ]
  return max(
      spans,
      key=lambda span: paid[span[1]] - paid[span[0]] - worker.cost(
          span[1] - span[0], found[span[1] - 1]))
