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

"""A limit of the padded size that follows what does not fit in memory."""

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from typing import Any

# After as many batches that fit the limit is doubled.
_RECOVER_AFTER = 64


@dataclasses.dataclass(slots=True)
class Report:
  """What was said of a batch."""
  out_of_memory: bool = False


# By the id of the batch, since with a timeout another thread works on it.
_reports: dict[int, Report] = {}


@contextlib.contextmanager
def reported(batch: Any) -> Iterator[Report]:
  """Notes what is said of a batch while others work on it."""
  _reports[id(batch)] = report = Report()
  try:
    yield report
  finally:
    del _reports[id(batch)]


def report_out_of_memory(batch: Any) -> None:
  """Says that a batch did not fit; nothing where nobody notes that."""
  report = _reports.get(id(batch))
  if report:
    report.out_of_memory = True


class MemoryLimit:
  """Half of the padded size that failed last, doubled each 64 batches that fit.

  Safe for use by several threads. ``limit`` is None where nothing failed.
  """
  def __init__(self):
    self.limit: int | None = None
    # The least that failed and that is not forgotten.
    self._failed = 0
    self._fitted = 0
    self._lock = threading.Lock()

  def learn(self, padded_size: int, failed: bool) -> None:
    """Learns from a batch.

    Args:
      padded_size: its longest length times its number of elements.
      failed: whether it did not fit.
    """
    with self._lock:
      if failed:
        limit = self.limit or padded_size
        self._failed = min(padded_size, self._failed or padded_size)
        self.limit = max(1, min(padded_size, limit) // 2)
        self._fitted = 0
      elif self.limit is not None:
        self._fitted += 1
        if self._fitted >= _RECOVER_AFTER:
          self._fitted = 0
          self._grow()

  def _grow(self):
    self.limit *= 2
    # Twice what failed: then it is as if nothing had.
    if self.limit > 2 * self._failed:
      self.limit, self._failed = None, 0
