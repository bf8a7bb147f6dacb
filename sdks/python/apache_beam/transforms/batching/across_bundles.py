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

"""Groups elements by length across bundles, with state and timers.

All elements of a key wait in one room, so that neighbours of any length can
meet; they are stored by cells of similar length. Two timers: the deadline in
real time, and the end of the window. Runners differ in when they fire, so a
timer only says that it may be time: what is due is told by the state.
"""

import collections
import random
from operator import attrgetter

from apache_beam import coders
from apache_beam.metrics import Metrics
from apache_beam.transforms.batching.fixed_boundaries import FixedBoundaries
from apache_beam.transforms.batching.in_bundle import LengthBatchingDoFn
from apache_beam.transforms.batching.least_cost import padded_size
from apache_beam.transforms.batching.lookahead import cut_into_runs
from apache_beam.transforms.batching.memory_limit import take_out_of_memory
from apache_beam.transforms.batching.priced_window import PricedWindow
from apache_beam.transforms.batching.waiting import Leaving
from apache_beam.transforms.batching.waiting_room import CELLS
from apache_beam.transforms.batching.waiting_room import WaitingRoom
from apache_beam.transforms.core import DoFn
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec
from apache_beam.transforms.userstate import TimerSpec
from apache_beam.transforms.userstate import on_timer
from apache_beam.utils import windowed_value
from apache_beam.utils.timestamp import Timestamp

__all__ = ['Waiter', 'WithShard', 'waiting_do_fn']


class _WaitingRoomCoder(coders.Coder):
  def encode(self, value):
    return value.encode()

  def decode(self, encoded):
    return WaitingRoom.decode(encoded)

  def is_deterministic(self):
    return False


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
    self.measure = within_bundle.measure
    self.clock = within_bundle.clock
    self.max_wait = int(max_wait_secs * 1e6)
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

  def arrived(self, room, index, length, now):
    """Runs that leave now that an element is there, one at a time."""
    self._arrived.append(length)
    run = self._policy.arrived(room.lengths, index)
    if run is not None:
      yield self._within(room, run, index), 'full'
    options = self._options
    while len(room) >= options.max_buffered_elements:
      yield self._oldest(room), 'full'
    while len(room) and room.nbytes >= options.max_buffered_bytes:
      yield self._oldest(room), 'memory'
    # A runner fires no timer of a key while it has elements for it.
    yield from self.due(room, now)

  def due(self, room, now):
    """Runs of what has waited for as long as it may, one at a time."""
    while len(room):
      arrived = room.oldest()[1].arrived
      # An arrival in the future: the clock was set back.
      if arrived <= now < arrived + self.max_wait:
        return
      yield self._oldest(room), 'deadline'

  def all(self, room):
    """Runs of all that waits, one at a time, cut at least cost."""
    known, limits, runs = None, None, []
    while len(room):
      # The cost is learned from the batches that leave meanwhile.
      settled = self._within_bundle.model.is_settled
      if (not runs or limits != self._within_bundle.limits_now() or
          not settled and known != self._within_bundle.known()):
        known = self._within_bundle.known()
        limits = self._within_bundle.limits_now()
        cost, most = known
        sums = self._within_bundle.sums_of(room.values(), most)
        runs = cut_into_runs(room.lengths, cost, sums, limits)
        runs.sort(key=attrgetter('start'))
      # From the end, so that the others' indices stay.
      run = runs.pop()
      yield Leaving(run.start, run.end), 'window_end'

  def _oldest(self, room):
    index, _ = room.oldest()
    return self._within(room, self._policy.due(room.lengths, index), index)

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

  def batches(self, runs, room, cells, window):
    """Takes runs out of the room and their elements out of the cells."""
    for run, reason in runs:
      taken = room.take(run)
      elements = self._elements(taken, cells)
      newest = max(ticket.timestamp for ticket in taken.tickets)
      timestamp = min(
          window.max_timestamp(), Timestamp(micros=max(newest, room.hold)))
      if self._within_bundle.metrics:
        self._within_bundle.metrics.held(len(room) + len(elements))
      take_out_of_memory()
      before = self.clock()
      yield windowed_value.WindowedValue(elements, timestamp, (window, ))
      self._learn(taken, reason, before, self.clock() - before)

  def _elements(self, taken, cells):
    elements = {}
    by_cell = collections.defaultdict(set)
    for number, ticket in zip(taken.numbers, taken.tickets):
      by_cell[ticket.cell].add(number)
    for cell, numbers in by_cell.items():
      held = list(cells[cell].read())
      self._read.inc(len(held))
      cells[cell].clear()
      for number, element in held:
        if number in numbers:
          elements[number] = element
        else:
          cells[cell].add((number, element))
    return [elements[number] for number in taken.numbers]

  def _learn(self, taken, reason, left, secs):
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
    self._within_bundle.learn(len(lengths), lengths[-1], secs)
    self._policy.left(lengths)
    if isinstance(self._policy, PricedWindow):
      self._policy.cost, _ = self._within_bundle.known()


class WithShard(DoFn):
  """Spreads elements over keys, in turn."""
  def __init__(self, shards: int):
    self._shards = shards

  def setup(self):
    self._next = random.randrange(self._shards)

  def process(self, element):
    self._next = (self._next + 1) % self._shards
    yield self._next, element


def waiting_do_fn(element_coder: coders.Coder, waiter: Waiter) -> DoFn:
  """A DoFn of (key, element) pairs that emits batches of elements.

  Nothing stays in state when no element waits.

  Args:
    element_coder: of the elements in state.
    waiter: decides what leaves.
  """
  numbered = coders.TupleCoder((coders.VarIntCoder(), element_coder))
  CELL = [BagStateSpec(f'cell{i}', numbered) for i in range(CELLS)]
  ROOM = ReadModifyWriteStateSpec('room', _WaitingRoomCoder())
  DEADLINE = TimerSpec('deadline', TimeDomain.REAL_TIME)
  WINDOW_END = TimerSpec('window_end', TimeDomain.WATERMARK)

  class _WaitingDoFn(DoFn):
    def setup(self):
      waiter.setup()

    def process(
        self,
        element,
        window=DoFn.WindowParam,
        timestamp=DoFn.TimestampParam,
        room_state=DoFn.StateParam(ROOM),
        deadline=DoFn.TimerParam(DEADLINE),
        window_end=DoFn.TimerParam(WINDOW_END),
        c0=DoFn.StateParam(CELL[0]),
        c1=DoFn.StateParam(CELL[1]),
        c2=DoFn.StateParam(CELL[2]),
        c3=DoFn.StateParam(CELL[3]),
        c4=DoFn.StateParam(CELL[4]),
        c5=DoFn.StateParam(CELL[5]),
        c6=DoFn.StateParam(CELL[6]),
        c7=DoFn.StateParam(CELL[7])):
      cells = (c0, c1, c2, c3, c4, c5, c6, c7)
      held = waiter.measure(element[1])
      arrived = int(held.arrived * 1e6)
      room = room_state.read() or WaitingRoom()
      if not len(room):
        # Whoever sets a timer holds the watermark at its own timestamp.
        room.hold = timestamp.micros
        deadline.set(Timestamp(micros=arrived + waiter.max_wait))
        window_end.set(window.max_timestamp())
      number, cell, index = room.add(
          held.length, arrived, timestamp.micros, held.nbytes, held.values)
      cells[cell].add((number, element[1]))
      runs = waiter.arrived(room, index, held.length, arrived)
      yield from waiter.batches(runs, room, cells, window)
      _keep(room_state, room)

    @on_timer(DEADLINE)
    def on_deadline(
        self,
        window=DoFn.WindowParam,
        timestamp=DoFn.TimestampParam,
        room_state=DoFn.StateParam(ROOM),
        deadline=DoFn.TimerParam(DEADLINE),
        c0=DoFn.StateParam(CELL[0]),
        c1=DoFn.StateParam(CELL[1]),
        c2=DoFn.StateParam(CELL[2]),
        c3=DoFn.StateParam(CELL[3]),
        c4=DoFn.StateParam(CELL[4]),
        c5=DoFn.StateParam(CELL[5]),
        c6=DoFn.StateParam(CELL[6]),
        c7=DoFn.StateParam(CELL[7])):
      room = room_state.read()
      # It also fires early, and after all has left: then nothing is due.
      if room is None:
        return
      cells = (c0, c1, c2, c3, c4, c5, c6, c7)
      now = int(waiter.clock() * 1e6)
      yield from waiter.batches(waiter.due(room, now), room, cells, window)
      if len(room):
        room.hold = max(room.hold, timestamp.micros)
        _, oldest = room.oldest()
        deadline.set(Timestamp(micros=oldest.arrived + waiter.max_wait))
      _keep(room_state, room)

    @on_timer(WINDOW_END)
    def on_window_end(
        self,
        window=DoFn.WindowParam,
        room_state=DoFn.StateParam(ROOM),
        deadline=DoFn.TimerParam(DEADLINE),
        c0=DoFn.StateParam(CELL[0]),
        c1=DoFn.StateParam(CELL[1]),
        c2=DoFn.StateParam(CELL[2]),
        c3=DoFn.StateParam(CELL[3]),
        c4=DoFn.StateParam(CELL[4]),
        c5=DoFn.StateParam(CELL[5]),
        c6=DoFn.StateParam(CELL[6]),
        c7=DoFn.StateParam(CELL[7])):
      room = room_state.read()
      if room is not None:
        cells = (c0, c1, c2, c3, c4, c5, c6, c7)
        yield from waiter.batches(waiter.all(room), room, cells, window)
        _keep(room_state, room)
      # A runner waits for a timer that is set, even behind the last window.
      deadline.clear()

  return _WaitingDoFn()


def _keep(room_state, room):
  if len(room):
    room_state.write(room)
  else:
    room_state.clear()
