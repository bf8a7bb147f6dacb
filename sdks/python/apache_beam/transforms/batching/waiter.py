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

"""Decides which elements of a buffer are flushed, and makes batches of them."""

import math
import uuid

from apache_beam.metrics import Metrics
from apache_beam.transforms.batching.in_bundle import LengthBatchingDoFn
from apache_beam.transforms.batching.policy.fixed_boundaries import FixedBoundaries
from apache_beam.transforms.batching.policy.flushing import OVERLOADED
from apache_beam.transforms.batching.policy.flushing import Span
from apache_beam.transforms.batching.policy.least_cost import padded_size
from apache_beam.transforms.batching.policy.lookahead import cut_into_runs
from apache_beam.transforms.batching.policy.memory_limit import reported
from apache_beam.transforms.batching.policy.priced_window import PricedWindow
from apache_beam.transforms.batching.policy.work_conserving import Backlog
from apache_beam.transforms.batching.policy.work_conserving import WorkConserving
from apache_beam.utils import windowed_value
from apache_beam.utils.timestamp import Timestamp

# How long elements gather that the runner brings too late, as a part of the
# longest wait. Without it they are flushed group by group, in batches of one or two:
# MiniLM on Prism made 183 batches of 300 texts with a padding ratio of 1.53,
# and 73 with 1.10 since.
_GATHERING = 1 / 8
# While the model is idle batches are flushed until they took this many times as
# long as it took to choose them: a model that is faster than that gains nothing
# by another choice.
_CALLS_TO_CHOICE = 10


class Waiter:
  """Decides which elements of a buffer are flushed, and makes batches of them.

  Args:
    within_bundle: what would batch without waiting; its limits, its measures
      and the cost that it learned hold here too.
    max_wait_secs: how long an element may wait; infinite for the end of its
      window.
  """
  def __init__(self, within_bundle: LengthBatchingDoFn, max_wait_secs: float):
    self._within_bundle = within_bundle
    self._options = within_bundle.options
    self._limits = within_bundle.limits
    self._sum_limits = [limit for _, limit in within_bundle.sums]
    self.clock = within_bundle.clock
    self.max_wait = _microseconds(max_wait_secs)
    self._gathering = _microseconds(max_wait_secs * _GATHERING)
    # Without a deadline batches are to be as full as they can be.
    self._is_work_conserving = (
        self._options.optimize_for == 'latency' and max_wait_secs < math.inf)
    self._backlog = Backlog(self.max_wait)
    self._id = uuid.uuid4().hex
    self._read = Metrics.counter(
        self._options.metrics_namespace, 'elements_read_from_state')

  def setup(self):
    self._within_bundle.setup()
    most = min(self._sum_limits[0], self._options.max_buffered_elements)
    count, largest = max(1, int(most)), self._limits.max_padded_size
    limits, cost = (count, largest), self._within_bundle.known()[0]
    if self._limits.boundaries:
      self._policy = FixedBoundaries(
          self._limits.boundaries,
          *limits,
          self._is_work_conserving,
          self._limits.min_batch_size)
    elif self._is_work_conserving:
      self._policy = WorkConserving(cost, *limits, self._limits.min_batch_size)
    else:
      self._policy = PricedWindow(cost, *limits)

  def key(self, key, window):
    """Identifies the buffer of a key and window in this process."""
    return self._id, key, window

  def now(self) -> int:
    """In microseconds."""
    return round(self.clock() * 1e6)

  def add(self, stored, group):
    """Adds elements; spans that are flushed then, one at a time."""
    now, buffer = self.now(), stored.buffer
    self._backlog.resumed(now, len(buffer) > 0)
    if not self._is_work_conserving:
      self._gather(buffer, now, group)
    first = buffer.added
    for element, length, arrived, timestamp, nbytes, values in group:
      # Not in the future, where the clock of another worker is ahead.
      number, bucket = buffer.add(
          length, min(arrived, now), timestamp, nbytes, values)
      stored.elements.add(bucket, number, element)
    for span in reversed(self._policy.added(buffer.lengths, first,
                                            buffer.added)):
      yield self._within(buffer, span, span.start), 'full'
    if len(buffer) >= self._options.max_buffered_elements:
      yield from self._some(buffer, 'full')
    if buffer.nbytes >= self._options.max_buffered_bytes:
      yield from self._some(buffer, 'memory')
    # A runner fires no timer of a key while it has elements for it.
    last = max(arrived for _, _, arrived, *_ in group)
    yield from self._flush(
        buffer, self._backlog.is_added(last, self.now(), buffer.timer))

  def fired(self, buffer):
    """Spans that are flushed when the timer fires, one at a time."""
    buffer.timer = 0
    self._backlog.resumed(self.now(), True)
    yield from self._flush(buffer, True)

  def _flush(self, buffer, is_all_added):
    """Spans of what is due and, if all that is queued was added, of what the
    model has time for; one at a time."""
    if self._is_work_conserving:
      if is_all_added:
        yield from self._while_idle(buffer)
    else:
      yield from self.due(buffer, self.now())

  def _while_idle(self, buffer):
    choice, began = 0.0, self.clock()
    while len(buffer):
      if self._is_due(buffer, self.now(), OVERLOADED):
        yield from self._least_waste(buffer, 'deadline', 0, 0)
        return
      chosen, index = self.clock(), buffer.oldest()
      is_due = self._is_due(buffer, self.now())
      decide = self._policy.due if is_due else self._policy.idle
      span = decide(buffer.lengths, index)
      if span is None:
        return
      choice += self.clock() - chosen
      yield self._within(buffer, span, index), 'deadline' if is_due else 'idle'
      time = max(
          _CALLS_TO_CHOICE * choice, self._backlog.time_for_calls() / 1e6)
      if not self.clock() - began < time:
        return

  def _gather(self, buffer, now, group):
    """Keeps for a while what the runner brings too late: it is behind, so more
    such elements follow, and better batches let it catch up."""
    is_late = any(now - arrived >= self.max_wait for _, _, arrived, *_ in group)
    if is_late and not buffer.gathers_until and not self._is_due(buffer, now):
      buffer.gathers_until = now + self._gathering

  def timer(self, buffer):
    """When to look at the buffer again, in microseconds; infinite for the end of
    the window."""
    now = self.now()
    # An arrival in the future: the clock was set back.
    due = min(buffer.first_arrival(), now) + self.max_wait
    is_enough = len(buffer) >= self._limits.min_batch_size
    if self._is_work_conserving and is_enough:
      return min(due, now + self._backlog.check_after())
    return max(due, buffer.gathers_until)

  def _is_due(self, buffer, now, times=1):
    """Whether the oldest waited so many times as long as it may."""
    if not len(buffer) or self.max_wait == math.inf:
      return False
    arrived = buffer.first_arrival()
    # An arrival in the future: the clock was set back.
    return not arrived <= now < arrived + times * self.max_wait

  def due(self, buffer, now):
    """Runs of what has waited for as long as it may, one at a time."""
    # Not longer than it can be, where the clock was set back.
    if 0 < buffer.gathers_until - now <= self._gathering:
      return
    buffer.gathers_until = 0
    while self._is_due(buffer, now):
      index = buffer.oldest()
      span = self._policy.due(buffer.lengths, index)
      yield self._within(buffer, span, index), 'deadline'

  def all(self, buffer):
    """Runs of all that is buffered, one at a time, cut at least cost. The
    shortest first, as that makes the others wait least."""
    return self._least_waste(buffer, 'window_end', 0, 0)

  def _some(self, buffer, reason):
    """Runs of half of what may be buffered, those that waste least, so that
    buckets are read for many batches at once."""
    options = self._options
    for run in self._least_waste(buffer,
                                 reason,
                                 options.max_buffered_elements // 2,
                                 options.max_buffered_bytes // 2):
      yield run
      # Batches take time.
      yield from self.due(buffer, self.now())

  def _least_waste(self, buffer, reason, elements, nbytes):
    """Runs, until no more than so many elements and bytes are buffered."""
    within_bundle = self._within_bundle
    known, limits, runs, count = None, None, [], 0
    while len(buffer) > elements or buffer.nbytes > nbytes:
      # The cost is learned from the batches that are flushed meanwhile.
      settled = within_bundle.model.is_settled
      if (not runs or len(buffer) != count or
          limits != within_bundle.limits_now() or
          not settled and known != within_bundle.known()):
        known, limits = within_bundle.known(), within_bundle.limits_now()
        cost, most = known
        sums = within_bundle.sums_of(buffer.values(), most)
        runs = self._first(
            buffer,
            cut_into_runs(buffer.lengths, cost, sums, limits),
            len(buffer) - elements,
            buffer.nbytes - nbytes)
      run = runs.pop()
      count = len(buffer) - (run.end - run.start)
      yield run, reason

  def _first(self, buffer, runs, elements, nbytes):
    """As many of the runs as hold that much, the first one last.

    First comes a run that is larger than any before, since it tells what those
    cost; else the shortest. Each is where it is once those before it are gone.
    """
    def size(run):
      return buffer.lengths[run.end - 1] * (run.end - run.start)

    largest = max(runs, key=size)
    if self._within_bundle.is_larger(size(largest)):
      return [Span(largest.start, largest.end)]
    first = []
    for run in runs:
      if elements <= 0 and nbytes <= 0:
        break
      first.append(Span(run.start, run.end))
      elements -= run.end - run.start
      nbytes -= buffer.nbytes_of(first[-1])
    gone, shifted = 0, []
    for run in sorted(first):
      shifted.append(Span(run.start - gone, run.end - gone))
      gone += run.end - run.start
    return shifted[::-1]

  def _within(self, buffer, run, index):
    cost, most = self._within_bundle.known()
    limits = self._within_bundle.limits_now()
    largest, longest_time = limits.max_padded_size, limits.max_variable_cost

    def is_too_large(count, longest):
      if most is not None and count > most:
        return True
      if largest is not None and count * longest > largest:
        return True
      variable = cost.of(count, longest) - cost.fixed
      return longest_time is not None and variable > longest_time

    return buffer.within(run, index, self._sum_limits, is_too_large)

  def batches(self, runs, stored, window):
    """Takes runs out of the buffer and their elements out of state."""
    buffer, metrics = stored.buffer, self._within_bundle.metrics
    for run, reason in runs:
      taken = buffer.take(run)
      elements = stored.elements.take(taken)
      newest = max(entry.timestamp for entry in taken.entries)
      timestamp = min(
          window.max_timestamp(), Timestamp(micros=max(newest, buffer.hold)))
      if metrics:
        metrics.held(len(buffer) + len(elements))
      before = self.clock()
      with reported(elements) as report:
        yield windowed_value.WindowedValue(elements, timestamp, (window, ))
      secs = self.clock() - before
      self._learn(taken, buffer, reason, before, secs, report.out_of_memory)
    if stored.elements.read:
      self._read.inc(stored.elements.read)

  def _learn(self, taken, buffer, reason, flushed, secs, failed):
    lengths = [entry.length for entry in taken.entries]
    in_order = [buffer.arrived.popleft() for _ in lengths]
    if len(lengths) == 1 and self._within_bundle.is_oversized(taken.entries[0]):
      reason = 'limit'
    metrics = self._within_bundle.metrics
    if metrics:
      wait = flushed - min(entry.arrived for entry in taken.entries) / 1e6
      metrics.batch(lengths, padded_size(in_order), reason, wait, secs)
    self._within_bundle.learn(len(lengths), lengths[-1], secs, failed)
    self._backlog.called(self.now(), secs * 1e6)
    self._policy.flushed(lengths)
    if not isinstance(self._policy, FixedBoundaries):
      self._policy.cost, _ = self._within_bundle.known()


def _microseconds(secs):
  return secs if secs == math.inf else int(secs * 1e6)
