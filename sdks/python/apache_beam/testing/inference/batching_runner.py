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
import math

import apache_beam as beam
from apache_beam import coders
from apache_beam.transforms import window
from apache_beam.transforms.batching import by_length
from apache_beam.transforms.batching import groups
from apache_beam.transforms.batching import stateful
from apache_beam.transforms.batching.buffer import BUCKETS
from apache_beam.transforms.batching.buffer import Buffer
from apache_beam.transforms.batching.waiter import Waiter
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

WAIT = 10
WINDOW = window.IntervalWindow(0, 1000)


class _Bag:
  """Keeps what is encoded, so that nothing is shared with the one who adds."""
  def __init__(self, coder):
    self._coder = coder
    self.encoded = []
    self.reads = self.written = 0

  @property
  def held(self):
    return [self._coder.decode(value) for value in self.encoded]

  def read(self):
    self.reads += len(self.encoded)
    return self.held

  def add(self, value):
    self.encoded.append(self._coder.encode(value))
    self.written += len(self.encoded[-1])

  def clear(self):
    self.encoded = []


class _Value:
  """Bytes, as between bundles."""
  encoded = None
  written = 0

  def read(self):
    return self.encoded

  def write(self, encoded):
    self.encoded = encoded
    self.written += len(encoded)

  def clear(self):
    self.encoded = None


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
  when they are told to. Keeps what is emitted: elements, timestamp, and when."""
  def __init__(self, options=None, wait=WAIT, **kwargs):
    self.now = 100.0
    # Of a clock that goes on while nothing happens.
    self.ticks = lambda: 0.0
    batch = beam.BatchElements(
        length_fn=lambda element: element[1],
        max_batch_duration_secs=wait,
        clock=lambda: self.now + self.ticks(),
        options=options,
        **kwargs)
    within_bundle = by_length.length_batching_do_fn(
        batch, by_length.Caller('Batch', True))
    self.groups = groups.InGroups(within_bundle, wait or math.inf)
    self.groups.setup()
    element_coder = coders.PickleCoder()
    self.do_fn = stateful.stateful_do_fn(
        element_coder, Waiter(within_bundle, wait or math.inf))
    self.do_fn.setup()
    numbered = coders.TupleCoder((coders.VarIntCoder(), element_coder))
    self.bags = [_Bag(numbered) for _ in range(BUCKETS)]
    self.log = _Bag(coders.BytesCoder())
    self.header = _Value()
    self.deadline, self.window_end = _Timer(), _Timer()
    self.left = []
    # What a batch takes, in seconds; nothing if there is none.
    self.cost = None

  @property
  def buckets(self):
    return {f'b{i}': bag for i, bag in enumerate(self.bags)}

  @property
  def buffer(self):
    """As a worker that knows nothing of it reads it; None if it is empty."""
    if not self.header.encoded:
      return None
    return Buffer.restore(self.header.encoded, self.log.held)

  @property
  def held(self):
    """The elements that are in state and were not emitted."""
    buffer = self.buffer
    return [
        element for bag in self.bags for number, element in bag.held
        if number in buffer
    ]

  @property
  def written(self):
    """How many bytes were written to state."""
    return sum(state.written for state in (self.header, self.log, *self.bags))

  def arrive(self, element, timestamp, late=0):
    self.arrive_together([(element, timestamp)], late)

  def arrive_together(self, elements, late=0):
    """A bundle of (element, timestamp) pairs, late out of the shuffle."""
    self.now -= late
    self.groups.start_bundle()
    sent = []
    for element, timestamp in elements:
      windowed_value = WindowedValue(element, timestamp, (WINDOW, ))
      sent += self.groups.process(element, windowed_value)
    sent += self.groups.finish_bundle()
    self.now += late
    for group in sent:
      self._collect(
          self.do_fn.process(('key', group.value),
                             WINDOW,
                             group.timestamp,
                             self.header,
                             self.log,
                             self.deadline,
                             self.window_end,
                             **self.buckets))

  def fire_deadline(self, timestamp=0):
    cleared = self.deadline.cleared
    self._collect(
        self.do_fn.on_deadline(
            'key',
            WINDOW,
            Timestamp(timestamp),
            self.header,
            self.log,
            self.deadline,
            **self.buckets))
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
            'key', WINDOW, self.header, self.log, self.deadline,
            **self.buckets))
    assert self.deadline.at is None

  def _collect(self, batches):
    for batch in batches or ():
      self.left.append((batch.value, batch.timestamp, self.now))
      if self.cost:
        longest = max(length for _, length in batch.value)
        self.now += self.cost.of(len(batch.value), longest)

  def is_empty(self):
    state = (self.log, *self.bags)
    return not self.header.encoded and not any(bag.encoded for bag in state)
