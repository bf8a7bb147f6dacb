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

All elements of a key are in one buffer, so that neighbours of any length can
meet. Two timers: the deadline in real time, and the end of the window. Runners
differ in when they fire, so a timer only says that it may be time: the state
says what is due.
"""

import math

from apache_beam import coders
from apache_beam.transforms.batching.buffer import BUCKETS
from apache_beam.transforms.batching.buffer_state import StoredBuffer
from apache_beam.transforms.batching.waiter import Waiter
from apache_beam.transforms.core import DoFn
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec
from apache_beam.transforms.userstate import TimerSpec
from apache_beam.transforms.userstate import on_timer
from apache_beam.utils.timestamp import Timestamp


def stateful_do_fn(element_coder: coders.Coder, waiter: Waiter) -> DoFn:
  """A DoFn of (key, group) pairs that emits batches of elements.

  Nothing stays in state when nothing is buffered.

  Args:
    element_coder: of the elements in state.
    waiter: decides what is flushed.
  """
  numbered = coders.TupleCoder((coders.VarIntCoder(), element_coder))
  BUCKET = [BagStateSpec(f'bucket{i}', numbered) for i in range(BUCKETS)]
  HEADER = ReadModifyWriteStateSpec('header', coders.BytesCoder())
  LOG = BagStateSpec('log', coders.BytesCoder())
  DEADLINE = TimerSpec('deadline', TimeDomain.REAL_TIME)
  WINDOW_END = TimerSpec('window_end', TimeDomain.WATERMARK)

  def set_deadline(buffer, deadline, timestamp):
    at = waiter.timer(buffer)
    if at < math.inf and not 0 < buffer.timer <= at:
      deadline.set(Timestamp(micros=at))
      # The watermark hold is the output timestamp of the latest timer.
      buffer.timer, buffer.hold = at, max(buffer.hold, timestamp.micros)

  class _StatefulDoFn(DoFn):
    def setup(self):
      waiter.setup()

    def process(
        self,
        element,
        window=DoFn.WindowParam,
        timestamp=DoFn.TimestampParam,
        header=DoFn.StateParam(HEADER),
        log=DoFn.StateParam(LOG),
        deadline=DoFn.TimerParam(DEADLINE),
        window_end=DoFn.TimerParam(WINDOW_END),
        b0=DoFn.StateParam(BUCKET[0]),
        b1=DoFn.StateParam(BUCKET[1]),
        b2=DoFn.StateParam(BUCKET[2]),
        b3=DoFn.StateParam(BUCKET[3]),
        b4=DoFn.StateParam(BUCKET[4]),
        b5=DoFn.StateParam(BUCKET[5]),
        b6=DoFn.StateParam(BUCKET[6]),
        b7=DoFn.StateParam(BUCKET[7]),
        b8=DoFn.StateParam(BUCKET[8]),
        b9=DoFn.StateParam(BUCKET[9]),
        b10=DoFn.StateParam(BUCKET[10]),
        b11=DoFn.StateParam(BUCKET[11]),
        b12=DoFn.StateParam(BUCKET[12]),
        b13=DoFn.StateParam(BUCKET[13]),
        b14=DoFn.StateParam(BUCKET[14]),
        b15=DoFn.StateParam(BUCKET[15])):
      bags = (
          b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11, b12, b13, b14, b15)
      key, group = element
      stored = StoredBuffer(header, log, bags, waiter.key(key, window))
      buffer = stored.buffer
      was_empty = not len(buffer)
      if was_empty:
        buffer.hold = timestamp.micros
      elif not buffer.timer:
        # No timer holds the watermark, so it may be as late as this group.
        buffer.hold = max(buffer.hold, timestamp.micros)
      yield from waiter.batches(waiter.add(stored, group), stored, window)
      if len(buffer):
        set_deadline(buffer, deadline, timestamp)
        if was_empty:
          window_end.set(window.max_timestamp())
      stored.store()

    @on_timer(DEADLINE)
    def on_deadline(
        self,
        key=DoFn.KeyParam,
        window=DoFn.WindowParam,
        timestamp=DoFn.TimestampParam,
        header=DoFn.StateParam(HEADER),
        log=DoFn.StateParam(LOG),
        deadline=DoFn.TimerParam(DEADLINE),
        b0=DoFn.StateParam(BUCKET[0]),
        b1=DoFn.StateParam(BUCKET[1]),
        b2=DoFn.StateParam(BUCKET[2]),
        b3=DoFn.StateParam(BUCKET[3]),
        b4=DoFn.StateParam(BUCKET[4]),
        b5=DoFn.StateParam(BUCKET[5]),
        b6=DoFn.StateParam(BUCKET[6]),
        b7=DoFn.StateParam(BUCKET[7]),
        b8=DoFn.StateParam(BUCKET[8]),
        b9=DoFn.StateParam(BUCKET[9]),
        b10=DoFn.StateParam(BUCKET[10]),
        b11=DoFn.StateParam(BUCKET[11]),
        b12=DoFn.StateParam(BUCKET[12]),
        b13=DoFn.StateParam(BUCKET[13]),
        b14=DoFn.StateParam(BUCKET[14]),
        b15=DoFn.StateParam(BUCKET[15])):
      bags = (
          b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11, b12, b13, b14, b15)
      stored = StoredBuffer(header, log, bags, waiter.key(key, window))
      buffer = stored.buffer
      # It also fires early, and after all was flushed: then nothing is due.
      if not len(buffer):
        return
      yield from waiter.batches(waiter.fired(buffer), stored, window)
      if len(buffer):
        set_deadline(buffer, deadline, timestamp)
      stored.store()

    @on_timer(WINDOW_END)
    def on_window_end(
        self,
        key=DoFn.KeyParam,
        window=DoFn.WindowParam,
        header=DoFn.StateParam(HEADER),
        log=DoFn.StateParam(LOG),
        deadline=DoFn.TimerParam(DEADLINE),
        b0=DoFn.StateParam(BUCKET[0]),
        b1=DoFn.StateParam(BUCKET[1]),
        b2=DoFn.StateParam(BUCKET[2]),
        b3=DoFn.StateParam(BUCKET[3]),
        b4=DoFn.StateParam(BUCKET[4]),
        b5=DoFn.StateParam(BUCKET[5]),
        b6=DoFn.StateParam(BUCKET[6]),
        b7=DoFn.StateParam(BUCKET[7]),
        b8=DoFn.StateParam(BUCKET[8]),
        b9=DoFn.StateParam(BUCKET[9]),
        b10=DoFn.StateParam(BUCKET[10]),
        b11=DoFn.StateParam(BUCKET[11]),
        b12=DoFn.StateParam(BUCKET[12]),
        b13=DoFn.StateParam(BUCKET[13]),
        b14=DoFn.StateParam(BUCKET[14]),
        b15=DoFn.StateParam(BUCKET[15])):
      bags = (
          b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11, b12, b13, b14, b15)
      stored = StoredBuffer(header, log, bags, waiter.key(key, window))
      yield from waiter.batches(waiter.all(stored.buffer), stored, window)
      stored.store()
      # A runner waits for a timer that is set, even after the last window.
      deadline.clear()

  return _StatefulDoFn()
