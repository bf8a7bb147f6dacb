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

"""State and timers of one key and window, in the hands of a test."""

import dataclasses

import apache_beam as beam
from apache_beam import coders
from apache_beam.transforms import window
from apache_beam.transforms.batching import across_bundles
from apache_beam.transforms.batching import chunks
from apache_beam.transforms.batching.waiter import Waiter
from apache_beam.transforms.batching.waiting_room import CELLS
from apache_beam.transforms.batching.waiting_room import WaitingRoom
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

__all__ = ['WAIT', 'WINDOW', 'FakeRunner', 'OneBundle']

WAIT = 10
WINDOW = window.IntervalWindow(0, 1000)


class _Bag:
  def __init__(self):
    self.held = []
    self.reads = 0

  def read(self):
    self.reads += len(self.held)
    return list(self.held)

  def add(self, value):
    self.held.append(value)

  def clear(self):
    self.held = []


class _Room:
  """Encodes what it keeps, as between bundles."""
  encoded = None

  def read(self):
    return WaitingRoom.decode(self.encoded) if self.encoded else None

  def write(self, room):
    self.encoded = room.encode()

  def clear(self):
    self.encoded = None


class OneBundle(_Room):
  """Keeps a room as it is, as within a bundle."""
  def read(self):
    return self.encoded

  def write(self, room):
    self.encoded = room


@dataclasses.dataclass
class _Timer:
  at: float | None = None
  cleared: int = 0

  def set(self, at):
    self.at = float(at)

  def clear(self):
    self.at = None
    self.cleared += 1


class FakeRunner:
  """Stands in for a runner: one key and window, state, and timers that fire
  when they are told to. Keeps what leaves: elements, timestamp, and when."""
  def __init__(self, options=None, **kwargs):
    self.now = 100.0
    batch = beam.BatchElements(
        length_fn=lambda element: element[1],
        max_batch_duration_secs=WAIT,
        clock=lambda: self.now,
        options=options,
        **kwargs)
    within_bundle = batch.length_batching_do_fn('Batch')
    self.chunks = chunks.InChunks(within_bundle, WAIT)
    self.chunks.setup()
    self.do_fn = across_bundles.waiting_do_fn(
        coders.PickleCoder(), Waiter(within_bundle, WAIT))
    self.do_fn.setup()
    self.bags = [_Bag() for _ in range(CELLS)]
    self.room = _Room()
    self.deadline, self.window_end = _Timer(), _Timer()
    self.left = []
    self.secs_per_element = 0.0

  @property
  def cells(self):
    return {f'c{i}': bag for i, bag in enumerate(self.bags)}

  def arrive(self, element, timestamp, late=0):
    self.arrive_together([(element, timestamp)], late)

  def arrive_together(self, elements, late=0):
    """A bundle of (element, timestamp) pairs, late out of the shuffle."""
    self.now -= late
    self.chunks.start_bundle()
    sent = []
    for element, timestamp in elements:
      windowed_value = WindowedValue(element, timestamp, (WINDOW, ))
      sent += self.chunks.process(element, windowed_value)
    sent += self.chunks.finish_bundle()
    self.now += late
    for chunk in sent:
      self._collect(
          self.do_fn.process(('key', chunk.value),
                             WINDOW,
                             chunk.timestamp,
                             self.room,
                             self.deadline,
                             self.window_end,
                             **self.cells))

  def fire_deadline(self, timestamp=0):
    cleared = self.deadline.cleared
    self._collect(
        self.do_fn.on_deadline(
            WINDOW,
            Timestamp(timestamp),
            self.room,
            self.deadline,
            **self.cells))
    assert self.deadline.cleared == cleared, 'cleared its own timer'

  def pass_time(self, seconds):
    """Fires the deadline when it is time, as a runner in real time does."""
    end = self.now + seconds
    while self.deadline.at is not None and self.deadline.at <= end:
      self.now = max(self.now, self.deadline.at)
      self.deadline.at = None
      self.fire_deadline()
    self.now = end

  def end_window(self):
    self._collect(
        self.do_fn.on_window_end(
            WINDOW, self.room, self.deadline, **self.cells))
    assert self.deadline.at is None

  def _collect(self, batches):
    for batch in batches or ():
      self.left.append((batch.value, batch.timestamp, self.now))
      self.now += self.secs_per_element * len(batch.value)

  def is_empty(self):
    return not self.room.encoded and not any(bag.held for bag in self.bags)
