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

"""Decides which elements of a waiting room leave, and makes batches of them."""

import collections

from apache_beam.metrics import Metrics
from apache_beam.transforms.batching.fixed_boundaries import FixedBoundaries
from apache_beam.transforms.batching.in_bundle import LengthBatchingDoFn
from apache_beam.transforms.batching.least_cost import padded_size
from apache_beam.transforms.batching.lookahead import cut_into_runs
from apache_beam.transforms.batching.memory_limit import reported
from apache_beam.transforms.batching.priced_window import PricedWindow
from apache_beam.transforms.batching.waiting import Leaving
from apache_beam.utils import windowed_value
from apache_beam.utils.timestamp import Timestamp

__all__ = ['Waiter']

# How long elements gather that the runner brings too late, as a part of the
# longest wait. Without it they leave chunk by chunk, in batches of one or two:
# MiniLM on Prism made 183 batches of 300 texts with a padding ratio of 1.53,
# and 73 with 1.10 since.
_GATHERING = 1 / 8


class Waiter:
  """Decides which elements of a room leave, and makes batches of them.

  Args:
    within_bundle: what would batch without waiting; its limits, its measures
      and the cost that it learned hold here too.
    max_wait_secs: how long an element may wait.
  """
  def __init__(self, within_bundle: LengthBatchingDoFn, max_wait_secs: float):
    self._within_bundle = within_bundle
    self._options = within_bundle.options
    self._limits = within_bundle.limits
    self._sum_limits = [limit for _, limit in within_bundle.sums]
    self.clock = within_bundle.clock
    self.max_wait = int(max_wait_secs * 1e6)
    self._gathering = int(max_wait_secs * 1e6 * _GATHERING)
    self._read = Metrics.counter(
        self._options.metrics_namespace, 'elements_read_from_state')

  def setup(self):
    self._within_bundle.setup()
    # Lengths in the order in which they came, to tell what that is worth.
    self._arrived = collections.deque(
        maxlen=self._options.max_buffered_elements)
    count, largest = self._sum_limits[0], self._limits.max_padded_size
    if self._limits.boundaries:
      self._policy = FixedBoundaries(self._limits.boundaries, count, largest)
    else:
      cost, _ = self._within_bundle.known()
      self._policy = PricedWindow(cost, count, self._options.hurry, largest)

  def now(self) -> int:
    """In microseconds."""
    return round(self.clock() * 1e6)

  def came(self, room, cells, chunk):
    """Lets elements in; runs that leave meanwhile, one at a time."""
    now = self.now()
    lengths, options = room.lengths, self._options
    self._gather(room, now, chunk)
    for element, length, arrived, timestamp, nbytes, values in chunk:
      # As in due_sooner.
      number, cell, index = room.add(
          length, min(arrived, now), timestamp, nbytes, values)
      cells.add(cell, number, element)
      self._arrived.append(length)
      full = self._policy.arrived(lengths, index, number)
      if (full or len(lengths) >= options.max_buffered_elements or
          room.nbytes >= options.max_buffered_bytes):
        yield from self._leaving(room, full, index)
    # A runner fires no timer of a key while it has elements for it.
    yield from self.due(room, self.now())

  def _leaving(self, room, full, index):
    for run in reversed(full):
      inside = min(max(index, run.start), run.end - 1)
      yield self._within(room, run, inside), 'full'
    if len(room) >= self._options.max_buffered_elements:
      yield from self._some(room, 'full')
    if room.nbytes >= self._options.max_buffered_bytes:
      yield from self._some(room, 'memory')

  def _gather(self, room, now, chunk):
    """Keeps for a while what the runner brings too late: it is behind, so more
    such elements follow, and better batches let it catch up."""
    is_late = any(now - arrived >= self.max_wait for _, _, arrived, *_ in chunk)
    if is_late and not room.gathers_until and not self._is_due(room, now):
      room.gathers_until = now + self._gathering

  def deadline(self, room):
    """When something is due next, in microseconds."""
    return max(room.first_arrival() + self.max_wait, room.gathers_until)

  def due_sooner(self, room, chunk):
    """When some of a chunk is due, in microseconds, if that is before all that
    waits; else None. A bundle that took long brings what is older."""
    # Not the future, where the clock of another worker is ahead.
    first = min(self.now(), *(arrived for _, _, arrived, *_ in chunk))
    due = first + self.max_wait
    if len(room) and max(due, room.gathers_until) >= self.deadline(room):
      return None
    return due

  def _is_due(self, room, now):
    if not len(room):
      return False
    arrived = room.first_arrival()
    # An arrival in the future: the clock was set back.
    return not arrived <= now < arrived + self.max_wait

  def due(self, room, now):
    """Runs of what has waited for as long as it may, one at a time."""
    # Not longer than it can be, where the clock was set back.
    if 0 < room.gathers_until - now <= self._gathering:
      return
    room.gathers_until = 0
    while self._is_due(room, now):
      index = room.oldest()
      run = self._policy.due(room.lengths, index)
      yield self._within(room, run, index), 'deadline'

  def all(self, room):
    """Runs of all that waits, one at a time, cut at least cost. The shortest
    first, as that makes the others wait least."""
    return self._least_waste(room, 'window_end', 0, 0)

  def _some(self, room, reason):
    """Runs of half of what may wait, those that waste least, so that cells are
    read for many batches at once."""
    options = self._options
    for leaving in self._least_waste(room,
                                     reason,
                                     options.max_buffered_elements // 2,
                                     options.max_buffered_bytes // 2):
      yield leaving
      # Batches take time.
      yield from self.due(room, self.now())

  def _least_waste(self, room, reason, elements, nbytes):
    """Runs, until no more than so many elements and bytes wait."""
    within_bundle = self._within_bundle
    known, limits, runs, count = None, None, [], 0
    while len(room) > elements or room.nbytes > nbytes:
      # The cost is learned from the batches that leave meanwhile.
      settled = within_bundle.model.is_settled
      if (not runs or len(room) != count or
          limits != within_bundle.limits_now() or
          not settled and known != within_bundle.known()):
        known, limits = within_bundle.known(), within_bundle.limits_now()
        cost, most = known
        sums = within_bundle.sums_of(room.values(), most)
        runs = _first(
            room,
            cut_into_runs(room.lengths, cost, sums, limits),
            len(room) - elements,
            room.nbytes - nbytes)
      run = runs.pop()
      count = len(room) - (run.end - run.start)
      yield run, reason

  def _within(self, room, run, index):
    cost, most = self._within_bundle.known()
    limits = self._within_bundle.limits_now()
    largest, dearest = limits.max_padded_size, limits.max_variable_cost

    def is_too_large(count, longest):
      if most is not None and count > most:
        return True
      if largest is not None and count * longest > largest:
        return True
      variable = cost.of(count, longest) - cost.fixed
      return dearest is not None and variable > dearest

    return room.within(run, index, self._sum_limits, is_too_large)

  def cells(self, bags):
    return _Cells(bags, self._read)

  def batches(self, runs, room, cells, window):
    """Takes runs out of the room and their elements out of the cells."""
    for run, reason in runs:
      taken = room.take(run)
      elements = cells.take(taken)
      newest = max(ticket.timestamp for ticket in taken.tickets)
      timestamp = min(
          window.max_timestamp(), Timestamp(micros=max(newest, room.hold)))
      if self._within_bundle.metrics:
        self._within_bundle.metrics.held(len(room) + len(elements))
      before = self.clock()
      with reported(elements) as report:
        yield windowed_value.WindowedValue(elements, timestamp, (window, ))
      secs = self.clock() - before
      self._learn(taken, reason, before, secs, report.out_of_memory)
    cells.keep()

  def _learn(self, taken, reason, left, secs, failed):
    lengths = [ticket.length for ticket in taken.tickets]
    first_ticket = taken.tickets[0]
    if len(lengths) == 1 and self._within_bundle.is_oversized(first_ticket):
      reason = 'limit'
    metrics = self._within_bundle.metrics
    if metrics:
      # A restart loses some of them.
      count = min(len(lengths), len(self._arrived))
      first = [self._arrived.popleft() for _ in range(count)]
      oldest = min(ticket.arrived for ticket in taken.tickets)
      wait = left - oldest / 1e6
      metrics.batch(lengths, padded_size(first or lengths), reason, wait, secs)
    self._within_bundle.learn(len(lengths), lengths[-1], secs, failed)
    self._policy.left(lengths)
    if isinstance(self._policy, PricedWindow):
      self._policy.cost, _ = self._within_bundle.known()


class _Cells:
  """The elements in state. A cell is read once for all batches that leave.

  Args:
    bags: of (number, element) pairs.
    count_read: a counter of elements.
  """
  def __init__(self, bags, count_read):
    self._bags = bags
    self._count_read = count_read
    self._held = {}

  def add(self, cell, number, element):
    if cell in self._held:
      self._held[cell][number] = element
    else:
      self._bags[cell].add((number, element))

  def take(self, taken):
    """The elements, in the order of their numbers."""
    elements = []
    for number, ticket in zip(taken.numbers, taken.tickets):
      held = self._held.get(ticket.cell)
      if held is None:
        held = self._held[ticket.cell] = dict(self._bags[ticket.cell].read())
        self._count_read.inc(len(held))
      elements.append(held.pop(number))
    return elements

  def keep(self):
    """Puts what was read and not taken back into state."""
    for cell, held in self._held.items():
      self._bags[cell].clear()
      for pair in held.items():
        self._bags[cell].add(pair)


def _first(room, runs, elements, nbytes):
  """As many of the runs as hold that much, the shortest last, each where it is
  once those behind it here have left."""
  first = []
  for run in runs:
    if elements <= 0 and nbytes <= 0:
      break
    leaving = Leaving(run.start, run.end)
    first.append(leaving)
    elements -= run.end - run.start
    nbytes -= room.nbytes_of(leaving)
  gone, shifted = 0, []
  for run in sorted(first):
    shifted.append(Leaving(run.start - gone, run.end - gone))
    gone += run.end - run.start
  return shifted[::-1]
