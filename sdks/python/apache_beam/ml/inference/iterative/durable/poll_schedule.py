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

"""When to poll a durable request next. No Beam here.

Each poll costs a checkpoint of the runner, so a request should be polled when
its next chunk is there, and not before.
"""

import bisect
import threading

from apache_beam.ml.inference.iterative.options import CHUNK_SECS

# Before anything is known of an engine: until the first token, and a token.
_FIRST_SECS = 0.05
_TOKEN_SECS = 0.05
# The first poll is at most so late: a first token may have been late because
# others were served first, which says nothing of the next.
_MAX_FIRST_SECS = 0.25
# How much a newer figure counts.
WEIGHT = 0.25
# A request that was silent for 5 s is polled after 1 s more: in parts of that
# time, at least and at most. 200 such requests take less than 5 % of a core.
_SILENT_PART = 0.2
_SILENT_SECS = (0.02, 2.0)
# A request is polled with another that is due so little earlier, or so much
# later: a bundle for each would cost more than that.
_EARLY_SECS = 0.025
_LATE_SECS = 0.06


class EngineSpeed:
  """How fast the engine of a session is, and when its requests are due by that.

  Attributes:
    first_secs: from the submission of a request to its first token, at best.
    token_secs: from one token of a request to the next.
  """
  def __init__(self):
    self.first_secs = _FIRST_SECS
    self.token_secs = _TOKEN_SECS

  def first(self, seconds: float) -> None:
    """Learns the seconds from a submission to the first token."""
    if seconds > self.first_secs:
      seconds = self.first_secs + WEIGHT * (seconds - self.first_secs)
    self.first_secs = min(max(seconds, 0.0), _MAX_FIRST_SECS)

  def token(self, seconds: float) -> None:
    """Learns the seconds for each token of a chunk."""
    self.token_secs += WEIGHT * (max(seconds, 0.0) - self.token_secs)

  def due_at(self, request, now: float) -> float:
    """When the next chunk of a DurableRequest is expected, as none is due now."""
    if request.retry_at is not None:
      return request.retry_at
    newest = request.newest()
    if newest is None:
      more = request.tokens_to_come() - 1
      due = request.submitted + self.first_secs + more * self.token_secs
    else:
      due = self._next_chunk(request, newest)
    if due > now:
      return due
    silent = now - (request.submitted if newest is None else newest)
    return now + within(_SILENT_SECS, after_silence(silent))

  def _next_chunk(self, request, newest):
    unread, options = request.unread, request.options
    token_secs = request.token_secs
    if token_secs is None:
      token_secs = self.token_secs
    started = newest + token_secs
    if unread is not None:
      started = unread.started
      # It may be slower than it was.
      if request.taken_until is not None:
        made = unread.made - request.taken_until
        token_secs = max(token_secs, made / max(unread.tokens, 1))
    latest = started + (options.chunk_secs or CHUNK_SECS)
    if options.chunk_secs is None:
      least = request.tokens_to_come(least=True)
      latest = max(latest, newest + least * token_secs)
    return min(newest + request.tokens_to_come() * token_secs, latest)


class PollTimes:
  """The times of the next polls: few, so that requests share bundles."""
  def __init__(self):
    self._lock = threading.Lock()
    self._times: list[float] = []

  def at(self, due: float, now: float, late: float = _LATE_SECS) -> float:
    """The time for a request that is due then; at most so much later."""
    with self._lock:
      times = self._times
      del times[:bisect.bisect_right(times, now)]
      # At once it would find nothing again.
      soonest = max(due - _EARLY_SECS, (now + due) / 2)
      found = bisect.bisect_left(times, soonest)
      if found == len(times) or times[found] > due + late:
        times.insert(found, due)
      return times[found]


def after_silence(seconds: float) -> float:
  """In how many seconds to poll again what was silent for so many."""
  return _SILENT_PART * seconds


def within(bounds: tuple[float, float], value: float) -> float:
  least, most = bounds
  return min(max(value, least), most)
