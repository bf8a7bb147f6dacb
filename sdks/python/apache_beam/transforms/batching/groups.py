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

"""Sends the elements of a bundle to state in groups.

A runner resolves all state of a DoFn for each element that it gets, and encodes
a key for it. Nothing passes a shuffle before the end of a bundle, so a group of
its elements comes no later than they would.
"""

import random
from typing import Any

from apache_beam.transforms.batching.in_bundle import LengthBatchingDoFn
from apache_beam.transforms.core import DoFn
from apache_beam.typehints import List
from apache_beam.typehints import Tuple
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

_MAX_ELEMENTS = 64
_MAX_BYTES = 1 << 20
# Some runners hand on what a bundle puts out before it ends: then an element is
# kept for no longer than this part of its wait.
_PART_OF_WAIT = 1 / 16


def group_type(element_type: Any) -> Any:
  """Of groups: lists of (element, length, arrival, timestamp, bytes, values).

  Times are in microseconds; values are those whose sums are limited.
  """
  return List[Tuple[element_type, int, int, int, int, List[float]]]


class InGroups(DoFn):
  """Measures elements and puts those of a bundle and a window together.

  A group has the timestamp of its earliest element.

  Args:
    within_bundle: measures elements.
    max_wait_secs: how long an element may wait.
    shards: over how many integer keys groups are spread, in turn; None for
      groups without a key. All groups of a bundle have one key unless one is
      full: a runner may run keys that have elements at the same time in one
      bundle, one after another, as Prism does.
  """
  def __init__(
      self,
      within_bundle: LengthBatchingDoFn,
      max_wait_secs: float,
      shards: int | None = None):
    self._within_bundle = within_bundle
    self._max_age = max_wait_secs * _PART_OF_WAIT
    self._shards = shards

  def setup(self):
    self._shard = random.randrange(self._shards) if self._shards else None

  def start_bundle(self):
    self._groups = {}
    self._take_next_shard()

  def process(self, element, windowed_value=DoFn.WindowedValueParam):
    measured = self._within_bundle.measured(element)
    for window in windowed_value.windows:
      group = self._groups.get(window)
      if group is None:
        group = self._groups[window] = _Group(measured.arrived)
      # A Timestamp for each element would take as long as all of this.
      group.add(measured, windowed_value.timestamp_micros)
      if (len(group.elements) >= _MAX_ELEMENTS or group.nbytes >= _MAX_BYTES or
          not 0 <= measured.arrived - group.since <= self._max_age):
        del self._groups[window]
        yield group.value(self._shard, window)
        self._take_next_shard()

  def finish_bundle(self):
    for window, group in self._groups.items():
      yield group.value(self._shard, window)
    self._groups = {}

  def _take_next_shard(self):
    if self._shards:
      self._shard = (self._shard + 1) % self._shards


class _Group:
  def __init__(self, since):
    self.since = since
    self.elements = []
    self.nbytes = 0

  def add(self, measured, timestamp):
    self.nbytes += measured.nbytes
    self.elements.append((
        measured.element,
        measured.length,
        round(measured.arrived * 1e6),
        timestamp,
        measured.nbytes,
        measured.values))

  def value(self, shard, window):
    value = self.elements if shard is None else (shard, self.elements)
    earliest = min(timestamp for _, _, _, timestamp, _, _ in self.elements)
    return WindowedValue(value, Timestamp(micros=earliest), (window, ))
