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

from apache_beam import coders
from apache_beam.transforms.batching.waiter import Waiter
from apache_beam.transforms.batching.waiting_room import CELLS
from apache_beam.transforms.batching.waiting_room import WaitingRoom
from apache_beam.transforms.core import DoFn
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec
from apache_beam.transforms.userstate import TimerSpec
from apache_beam.transforms.userstate import on_timer
from apache_beam.utils.timestamp import Timestamp

__all__ = ['waiting_do_fn']


class _WaitingRoomCoder(coders.Coder):
  def encode(self, value):
    return value.encode()

  def decode(self, encoded):
    return WaitingRoom.decode(encoded)

  def is_deterministic(self):
    return False


def waiting_do_fn(element_coder: coders.Coder, waiter: Waiter) -> DoFn:
  """A DoFn of (key, chunk) pairs that emits batches of elements.

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
        c7=DoFn.StateParam(CELL[7]),
        c8=DoFn.StateParam(CELL[8]),
        c9=DoFn.StateParam(CELL[9]),
        c10=DoFn.StateParam(CELL[10]),
        c11=DoFn.StateParam(CELL[11]),
        c12=DoFn.StateParam(CELL[12]),
        c13=DoFn.StateParam(CELL[13]),
        c14=DoFn.StateParam(CELL[14]),
        c15=DoFn.StateParam(CELL[15])):
      bags = (
          c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, c14, c15)
      _, chunk = element
      room = room_state.read() or WaitingRoom()
      due = waiter.due_sooner(room, chunk)
      if due is not None:
        # Whoever sets a timer holds the watermark at its own timestamp.
        hold = timestamp.micros
        room.hold = max(room.hold, hold) if len(room) else hold
        deadline.set(Timestamp(micros=due))
      if not len(room):
        window_end.set(window.max_timestamp())
      cells = waiter.cells(bags)
      runs = waiter.came(room, cells, chunk)
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
        c7=DoFn.StateParam(CELL[7]),
        c8=DoFn.StateParam(CELL[8]),
        c9=DoFn.StateParam(CELL[9]),
        c10=DoFn.StateParam(CELL[10]),
        c11=DoFn.StateParam(CELL[11]),
        c12=DoFn.StateParam(CELL[12]),
        c13=DoFn.StateParam(CELL[13]),
        c14=DoFn.StateParam(CELL[14]),
        c15=DoFn.StateParam(CELL[15])):
      room = room_state.read()
      # It also fires early, and after all has left: then nothing is due.
      if room is None:
        return
      bags = (
          c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, c14, c15)
      runs = waiter.due(room, waiter.now())
      yield from waiter.batches(runs, room, waiter.cells(bags), window)
      if len(room):
        room.hold = max(room.hold, timestamp.micros)
        deadline.set(Timestamp(micros=waiter.deadline(room)))
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
        c7=DoFn.StateParam(CELL[7]),
        c8=DoFn.StateParam(CELL[8]),
        c9=DoFn.StateParam(CELL[9]),
        c10=DoFn.StateParam(CELL[10]),
        c11=DoFn.StateParam(CELL[11]),
        c12=DoFn.StateParam(CELL[12]),
        c13=DoFn.StateParam(CELL[13]),
        c14=DoFn.StateParam(CELL[14]),
        c15=DoFn.StateParam(CELL[15])):
      room = room_state.read()
      if room is not None:
        bags = (
            c0,
            c1,
            c2,
            c3,
            c4,
            c5,
            c6,
            c7,
            c8,
            c9,
            c10,
            c11,
            c12,
            c13,
            c14,
            c15)
        cells = waiter.cells(bags)
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
