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

"""Replays arrivals through a policy, with a model that takes time, virtually."""

import copy
import dataclasses
import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from apache_beam.transforms.batching.policy.flushing import OVERLOADED
from apache_beam.transforms.batching.policy.flushing import FlushPolicy
from apache_beam.transforms.batching.policy.least_cost import Cost


@dataclasses.dataclass(frozen=True)
class Batch:
  """A batch: its number of elements, longest and total length."""
  count: int
  longest: int
  real: int


@dataclasses.dataclass(frozen=True)
class Model:
  """The model of one worker, which runs one batch at a time.

  Args:
    cost: of a batch.
    secs_per_cost: how many seconds a cost of 1 takes; 0 for a model that takes
      no time.
    secs_to_add: how many seconds the worker takes to add an element.
  """
  cost: Cost
  secs_per_cost: float = 0.0
  secs_to_add: float = 0.0


@dataclasses.dataclass(frozen=True)
class Replayed:
  """All batches; waits and latencies of each element, in input order.

  A wait ends when the element's batch is flushed, a latency when the model
  returns. Both are in seconds, as is the time until the last batch is there.
  """
  batches: list[Batch]
  waits: list[float]
  latencies: list[float]
  secs: float


def replay(
    lengths: Sequence[int],
    times: Sequence[float],
    policy: FlushPolicy,
    max_wait_secs: float,
    model: Model = Model(Cost(0, 0))) -> Replayed:
  """Lets elements arrive; the policy holds none longer than it may.

  Elements that arrive while the model runs are queued, and are added before the
  policy is asked again. At the end of the input all that is buffered is flushed.

  Args:
    lengths: of the elements.
    times: in seconds, when each arrives; ascending.
    policy: is copied, so that it learns nothing from this.
    max_wait_secs: how long an element may be buffered.
    model: runs the batches.

  Raises:
    ValueError: if there are not as many times as lengths, or they descend.
  """
  if len(lengths) != len(times):
    raise ValueError(f'{len(lengths)} lengths have {len(times)} times.')
  for number, (before, after) in enumerate(pairwise(times)):
    if after < before:
      raise ValueError(
          f'times descend from {before!r} to {after!r} at index {number + 1}.')
  worker = _Worker(lengths, times, copy.deepcopy(policy), max_wait_secs, model)
  worker.run()
  return Replayed(
      worker.batches,
      worker.waits,
      worker.latencies,
      worker.now - times[0] if times else 0.0)


class _Worker:
  """What is buffered, ascending by length, and what was flushed."""
  def __init__(self, lengths, times, policy, max_wait, model):
    self._lengths = lengths
    self._times = times
    self._policy = policy
    self._max_wait = max_wait
    self._model = model
    # Lengths with their indices, so that equal ones have an order.
    self._keys: list[tuple[int, int]] = []
    self._buffered: list[int] = []
    self._next = self._oldest = 0
    self.now = -math.inf
    self.batches: list[Batch] = []
    self.waits: list[float] = [-1.0] * len(lengths)
    self.latencies: list[float] = [-1.0] * len(lengths)

  def run(self):
    while self._next < len(self._times) or self._keys:
      if not self._keys:
        self.now = max(self.now, self._arrival())
      self._add_queued()
      if self._keys and not self._flush_oldest():
        # Nothing is due, and the model is kept idle.
        self.now = max(self.now, min(self._arrival(), self._due()))

  def _arrival(self):
    """When the next element arrives; never where there is none."""
    is_over = self._next == len(self._times)
    return math.inf if is_over else self._times[self._next]

  def _due(self):
    return self._times[self._first()] + self._max_wait

  def _add_queued(self):
    while self._arrival() <= self.now:
      index, self._next = self._next, self._next + 1
      self.now += self._model.secs_to_add
      key = self._lengths[index], index
      place = bisect_left(self._keys, key)
      self._keys.insert(place, key)
      self._buffered.insert(place, key[0])
      for span in reversed(self._policy.added(self._buffered, index,
                                              index + 1)):
        self._flush(span)

  def _flush_oldest(self):
    """Whether the batch of the oldest element was flushed."""
    oldest = self._first()
    if self.now - self._times[oldest] >= OVERLOADED * self._max_wait:
      spans = self._policy.overloaded(self._buffered)
      for span in spans:
        self._flush(span)
      if spans:
        return True
    index = bisect_left(self._keys, (self._lengths[oldest], oldest))
    is_over = self._next == len(self._times)
    if is_over or self.now >= self._due():
      span = self._policy.due(self._buffered, index)
    else:
      span = self._policy.idle(self._buffered, index)
    if span is None:
      return False
    self._flush(span)
    return True

  def _first(self):
    while self.waits[self._oldest] >= 0:
      self._oldest += 1
    return self._oldest

  def _flush(self, span):
    lengths = self._buffered[span.start:span.end]
    indices = [index for _, index in self._keys[span.start:span.end]]
    del self._keys[span.start:span.end], self._buffered[span.start:span.end]
    flushed, model = self.now, self._model
    self.now += model.secs_per_cost * model.cost.of(len(lengths), lengths[-1])
    for index in indices:
      self.waits[index] = max(0.0, flushed - self._times[index])
      self.latencies[index] = max(0.0, self.now - self._times[index])
    self._policy.flushed(lengths)
    self.batches.append(Batch(len(lengths), lengths[-1], sum(lengths)))
