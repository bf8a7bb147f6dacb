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

"""Replays arrivals through a waiting policy, on a virtual clock."""

import copy
import dataclasses
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from apache_beam.transforms.batching.waiting import WaitingPolicy

__all__ = ['Batch', 'Replayed', 'replay']


@dataclasses.dataclass(frozen=True)
class Batch:
  """A batch that left: its number of elements, longest and total length."""
  count: int
  longest: int
  real: int


@dataclasses.dataclass(frozen=True)
class Replayed:
  """All batches, and how many seconds each element waited, in input order."""
  batches: list[Batch]
  waits: list[float]


def replay(
    lengths: Sequence[int],
    times: Sequence[float],
    policy: WaitingPolicy,
    max_wait_secs: float) -> Replayed:
  """Lets elements arrive; none waits longer than it may.

  At the end of the input, the time of the last arrival, all that waits leaves.

  Args:
    lengths: of the elements.
    times: in seconds, when each arrives; ascending.
    policy: is copied, so that it learns nothing from this.
    max_wait_secs: how long an element may wait.

  Raises:
    ValueError: if there are not as many times as lengths, or they descend.
  """
  if len(lengths) != len(times):
    raise ValueError(f'{len(lengths)} lengths have {len(times)} times.')
  for number, (before, after) in enumerate(pairwise(times)):
    if after < before:
      raise ValueError(
          f'times descend from {before!r} to {after!r} at index {number + 1}.')
  buffer = _Buffer(lengths, times, copy.deepcopy(policy))
  for index, now in enumerate(times):
    buffer.flush_due(now, max_wait_secs)
    buffer.add(index, now)
  if times:
    buffer.flush_all(times[-1], max_wait_secs)
  return Replayed(buffer.batches, buffer.waits)


class _Buffer:
  """What waits, ascending by length, and what left."""
  def __init__(self, lengths, times, policy):
    self._lengths = lengths
    self._times = times
    self._policy = policy
    # Lengths with their indices, so that equal ones have an order.
    self._keys: list[tuple[int, int]] = []
    self._waiting: list[int] = []
    self._oldest = 0
    self.batches: list[Batch] = []
    self.waits: list[float] = [-1.0] * len(lengths)

  def add(self, index, now):
    key = (self._lengths[index], index)
    place = bisect_left(self._keys, key)
    self._keys.insert(place, key)
    self._waiting.insert(place, key[0])
    for run in reversed(self._policy.arrived(self._waiting, place, index)):
      self._leave(run, now)

  def flush_due(self, now, max_wait_secs):
    while self._keys:
      while self.waits[self._oldest] >= 0:
        self._oldest += 1
      deadline = self._times[self._oldest] + max_wait_secs
      if deadline > now:
        return
      self._leave_with(self._oldest, deadline)

  def flush_all(self, now, max_wait_secs):
    self.flush_due(now, max_wait_secs)
    while self._keys:
      while self.waits[self._oldest] >= 0:
        self._oldest += 1
      self._leave_with(self._oldest, now)

  def _leave_with(self, index, now):
    place = bisect_left(self._keys, (self._lengths[index], index))
    self._leave(self._policy.due(self._waiting, place), now)

  def _leave(self, run, now):
    lengths = self._waiting[run.start:run.end]
    for _, index in self._keys[run.start:run.end]:
      self.waits[index] = max(0.0, now - self._times[index])
    del self._keys[run.start:run.end], self._waiting[run.start:run.end]
    self._policy.left(lengths)
    self.batches.append(Batch(len(lengths), lengths[-1], sum(lengths)))
