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

"""No element waits while the model is idle: batches form under load."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

from apache_beam.transforms.batching.policy.flushing import FlushPolicy
from apache_beam.transforms.batching.policy.flushing import Span
from apache_beam.transforms.batching.policy.flushing import check_limits
from apache_beam.transforms.batching.policy.least_cost import Cost
from apache_beam.transforms.batching.policy.least_cost import least_cost_cut

# How far to both sides neighbours of the oldest element are cut with it.
_REACH = 256
# A backlog is given no more time to be added than the worker was busy, nor more
# than the larger of these parts of the longest wait and of that time.
_PART_OF_WAIT = 1 / 8
_PART_OF_BUSY = 1 / 2
# Nor is an idle model kept waiting for longer than this part of the busy time.
_PART_TO_CHECK = 1 / 8
# The time to be called again is to be no more than a percent of that of calls.
# On Prism it is 10 to 100 ms: a trace at a load of 0.6 had a median latency of
# 0.68 s with 4, and 0.28 s with 100, since one batch left in each turn.
_CALLS_TO_TURN = 100
# The part of the last turn in the learned one.
_NEWEST = 0.3


class WorkConserving(FlushPolicy):
  """Flushes the oldest element as soon as the model is idle.

  All that is buffered is cut at least cost, and the batch of the cut that holds
  the oldest element is flushed. Elements that arrive during its call are in the
  next cut. So at low load a call takes what is there; the higher the load the
  more each call finds, and the better its batch is. The rest of the cut stays
  for those that arrive meanwhile: where a call costs as much as 2,000 tokens,
  flushing all of it makes small batches, with which the model falls behind.

  The oldest element is always in the next batch, so none is starved. Once it
  has waited ``OVERLOADED`` times as long as it may, all that is buffered is
  flushed, the shortest first, before anything is added. So under overload no
  element waits for more than one such round, and few wait as long as the
  longest: simulated at a load of 0.95, the 95th percentile of the latency is
  5.5 s instead of 7.1 (MiniLM on 2 cores, waits of 2 s).

  Args:
    cost: of a batch; may be set anew as it is learned.
    max_batch_size: the most elements of a batch.
    max_padded_size: the largest padded size of a batch; None for no bound.
    min_batch_size: fewer elements are flushed when one is due only.

  Raises:
    ValueError: if a limit is not positive.
  """
  def __init__(
      self,
      cost: Cost,
      max_batch_size: int,
      max_padded_size: int | None = None,
      min_batch_size: int = 1):
    check_limits(
        max_batch_size=max_batch_size,
        max_padded_size=max_padded_size,
        min_batch_size=min_batch_size)
    self.cost = cost
    self._max_batch_size = max_batch_size
    self._max_padded_size = max_padded_size
    self._min_batch_size = min_batch_size

  def idle(self, lengths: Sequence[int], index: int) -> Span | None:
    if len(lengths) < self._min_batch_size:
      return None
    return self.due(lengths, index)

  def due(self, lengths: Sequence[int], index: int) -> Span:
    reach = max(_REACH, 2 * self._max_batch_size)
    low, high = max(0, index - reach), min(len(lengths), index + reach)
    near = lengths[low:high]
    ends = least_cost_cut(
        near,
        self.cost, [([1] * len(near), self._max_batch_size)],
        self._max_padded_size,
        min_batch_size=self._min_batch_size)
    cut = bisect_right(ends, index - low)
    return Span(low + (ends[cut - 1] if cut else 0), low + ends[cut])

  def overloaded(self, lengths: Sequence[int]) -> list[Span]:
    """All that is buffered, the shortest first."""
    ends = least_cost_cut(
        lengths,
        self.cost, [([1] * len(lengths), self._max_batch_size)],
        self._max_padded_size,
        min_batch_size=self._min_batch_size)
    return [Span(0, end - start) for start, end in pairwise([0, *ends])]


class Backlog:
  """What a runner queues while the model runs, and what handing it over takes.

  A runner hands over what was queued in several groups, one after the other, and
  says not which is the last. The first of them is not flushed alone. Times are in
  microseconds.

  Args:
    max_wait: how long an element may be buffered.
  """
  def __init__(self, max_wait: float):
    self._longest = max_wait * _PART_OF_WAIT
    self._began = self._ended = self._busy = self._turn = 0.0

  def resumed(self, now: float, is_again: bool) -> None:
    """The runner calls the worker.

    Args:
      now: the time.
      is_again: whether elements had stayed in the buffer, so that the runner was
        to call as soon as it could.
    """
    self._began = now
    if is_again and self._ended:
      # Where the clock was set back, or there was nothing to do, not for ever.
      turn = min(max(now - self._ended, 0.0), self._longest)
      self._turn += _NEWEST * (turn - self._turn)

  def called(self, ended: float, took: float) -> None:
    """The model was called and returned."""
    self._ended = ended
    self._busy = max(took, ended - self._began)

  def time_for_calls(self) -> float:
    """How long batches are flushed before the runner has its turn."""
    return _CALLS_TO_TURN * self._turn

  def is_added(self, arrived: float, now: float, timer: float) -> bool:
    """Whether it is all there, now that a group was added.

    Args:
      arrived: when the last element of the group arrived. Groups are handed over
        in the order of arrival, so what arrived after the calls was queued after
        all that arrived during them.
      now: the time.
      timer: when one fires; 0 if none is set. A runner fires it once nothing is
        queued, and it is left to decide: Prism spins while the time of a timer has
        passed and its key is busy. One that fires none of a busy key is not waited
        for.
    """
    part, is_last = self._busy * _PART_OF_BUSY, arrived >= self._ended
    if timer:
      return now >= timer + (
          self._longest if is_last else max(self._longest, part))
    time = max(min(self._busy, self._longest), part)
    return is_last or not 0 <= now - self._ended < time

  def check_after(self) -> int:
    """How long to wait for a group before the backlog counts as added."""
    return int(min(self._busy * _PART_TO_CHECK, self._longest))
