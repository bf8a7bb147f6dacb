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

"""Durable requests that are not submitted yet, since enough are in flight.

No Beam here.
"""

import dataclasses
import threading
from collections.abc import Hashable

from apache_beam.ml.inference.iterative.durable.poll_schedule import WEIGHT
from apache_beam.ml.inference.iterative.durable.poll_schedule import after_silence
from apache_beam.ml.inference.iterative.durable.poll_schedule import within

# Between two polls of a pending request.
_POLL_SECS = (0.05, 5.0)
# The same at most, while no request has ended yet.
_MAX_FIRST_POLL_SECS = 2.0


@dataclasses.dataclass(slots=True)
class _Pending:
  number: int
  first_polled: float
  last_polled: float
  polls: int = 0
  poll_at: float = 0.0


class PendingRequests:
  """Estimates when a pending request can be submitted: first come, first served.

  Any request that is polled may be submitted if fewer are in flight by then; this
  only says when it is worth polling.
  """
  def __init__(self):
    self._lock = threading.Lock()
    self._requests: dict[Hashable, _Pending] = {}
    self._numbers = 0
    self._submitted = 0
    # From the submission of a request to its end, on average.
    self._secs_in_flight: float | None = None

  def ended(self, seconds: float) -> None:
    """Learns how long a request was in flight."""
    with self._lock:
      if self._secs_in_flight is None:
        self._secs_in_flight = seconds
      self._secs_in_flight += WEIGHT * (seconds - self._secs_in_flight)

  def add(self, key: Hashable, now: float) -> int:
    """Counts a poll; returns how many pending requests come before it."""
    with self._lock:
      request = self._requests.get(key)
      if request is None:
        request = self._requests[key] = _Pending(self._numbers, now, now)
        self._numbers += 1
      request.last_polled = now
      request.polls += 1
      return max(request.number - self._submitted, 0)

  def next_poll(
      self,
      key: Hashable,
      begun: float,
      rounds: int,
      now: float,
      max_secs: float | None = None) -> float:
    """When to poll it next.

    Args:
      key: of the request.
      begun: when the request was submitted that it has to wait for.
      rounds: how many requests have to end there, one after another.
      max_secs: of a request in flight, used until one has ended.
    """
    with self._lock:
      request = self._requests[key]
      secs = self._secs_in_flight
      if secs is None:
        secs = max_secs
      due = now if secs is None else begun + rounds * secs
      if due <= now:
        since = request.first_polled if secs is None else due
        due = now + after_silence(now - since)
      elif self._secs_in_flight is None:
        # It may end much sooner.
        due = min(due, now + _MAX_FIRST_POLL_SECS)
      request.poll_at = now + within(_POLL_SECS, due - now)
      return request.poll_at

  def poll_at(self, key: Hashable) -> float:
    """When it was to be polled; 0 if it is not pending here."""
    request = self._requests.get(key)
    return 0.0 if request is None else request.poll_at

  def remove(self, key: Hashable) -> int:
    """It was submitted; returns how often it was polled before."""
    with self._lock:
      request = self._requests.pop(key, None)
      if request is None:
        return 0
      self._submitted += 1
      return request.polls

  def sweep(self, before: float) -> None:
    """Forgets requests last polled before that: they are on other workers."""
    with self._lock:
      gone = [
          key for key, request in self._requests.items()
          if request.last_polled < before
      ]
      for key in gone:
        del self._requests[key]
      self._submitted += len(gone)
