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

"""When a durable text is asked for again. No Beam here.

Each time costs a checkpoint of the runner, so that a text should come back when
its next chunk is there, and not before.
"""

import bisect
import dataclasses
import threading
from collections.abc import Hashable

from apache_beam.ml.inference.iterative.options import CHUNK_SECS

__all__ = ['Pace', 'Returns', 'WaitingRoom']

# Before anything is known of an engine: until the first token, and a token.
_FIRST_SECS = 0.05
_TOKEN_SECS = 0.05
# A first token is looked for that early at least: it may be late because others
# had to be served first, which says nothing of the next.
_LONGEST_FIRST_SECS = 0.25
# How much a newer figure counts.
_WEIGHT = 0.25
# A text of which nothing was heard for 5 s is asked for after 1 s more: in parts
# of that time, at least and at most. 200 such texts take less than 5 % of a core.
_SILENT_PART = 0.2
_SILENT_SECS = (0.02, 2.0)
# A text comes back with another that is due so little earlier, or so much
# later: a bundle for each would cost more than that.
_EARLY_SECS = 0.025
_LATE_SECS = 0.06
# For a place in flight.
_ROOM_SECS = (0.05, 5.0)
_UNKNOWN_LIFE_SECS = 2.0


class Pace:
  """How fast the engine of a session is, and when its texts are due by that.

  Attributes:
    first_secs: from the submission of a text to its first token, at best.
    token_secs: from one token of a text to the next.
  """
  def __init__(self):
    self.first_secs = _FIRST_SECS
    self.token_secs = _TOKEN_SECS

  def first(self, seconds: float) -> None:
    """A text had its first token so long after it was submitted."""
    if seconds > self.first_secs:
      seconds = self.first_secs + _WEIGHT * (seconds - self.first_secs)
    self.first_secs = min(max(seconds, 0.0), _LONGEST_FIRST_SECS)

  def token(self, seconds: float) -> None:
    """A text needed so long for each token of a chunk."""
    self.token_secs += _WEIGHT * (max(seconds, 0.0) - self.token_secs)

  def due_at(self, text, now: float) -> float:
    """When a chunk of a TextInFlight should be due that is not at ``now``."""
    if text.retry_at is not None:
      return text.retry_at
    newest = text.newest()
    if newest is None:
      more = text.tokens_to_come() - 1
      due = text.submitted + self.first_secs + more * self.token_secs
    else:
      due = self._next_chunk(text, newest)
    if due > now:
      return due
    silent = now - (text.submitted if newest is None else newest)
    return now + _within(_SILENT_SECS, _SILENT_PART * silent)

  def _next_chunk(self, text, newest):
    waiting, options = text.waiting, text.options
    token_secs = self.token_secs if text.token_secs is None else text.token_secs
    started = newest + token_secs
    tokens = text.tokens_to_come()
    if waiting is not None:
      started = waiting.started
      # It may be slower than it was.
      if text.taken_until is not None:
        made = waiting.made - text.taken_until
        token_secs = max(token_secs, made / max(waiting.tokens, 1))
    latest = started + (options.chunk_secs or CHUNK_SECS)
    if options.chunk_secs is None:
      latest = max(
          latest, newest + text.tokens_to_come(least=True) * token_secs)
    return min(newest + tokens * token_secs, latest)


class Returns:
  """The times at which texts come back: few, so that they share bundles."""
  def __init__(self):
    self._lock = threading.Lock()
    self._times: list[float] = []

  def at(self, due: float, now: float, late: float = _LATE_SECS) -> float:
    """The time for a text that is due then; at most so much later."""
    with self._lock:
      times = self._times
      del times[:bisect.bisect_right(times, now)]
      # At once it would find nothing again.
      soonest = max(due - _EARLY_SECS, (now + due) / 2)
      found = bisect.bisect_left(times, soonest)
      if found == len(times) or times[found] > due + late:
        times.insert(found, due)
      return times[found]


@dataclasses.dataclass(slots=True)
class _Waiting:
  number: int
  came_first: float
  came_last: float
  times: int = 0
  back_at: float = 0.0


class WaitingRoom:
  """The texts that wait until fewer are in flight, first come first served.

  A text that comes back takes what is free, so that this only says when it is
  worth to come back.
  """
  def __init__(self):
    self._lock = threading.Lock()
    self._texts: dict[Hashable, _Waiting] = {}
    self._numbers = 0
    self._served = 0
    # From the submission of a text to its end, on average.
    self._life_secs: float | None = None

  def ended(self, seconds: float) -> None:
    """A text was in flight for so long."""
    with self._lock:
      if self._life_secs is None:
        self._life_secs = seconds
      self._life_secs += _WEIGHT * (seconds - self._life_secs)

  def comes(self, key: Hashable, now: float) -> int:
    """It asks for a place; returns how many come before it."""
    with self._lock:
      text = self._texts.get(key)
      if text is None:
        text = self._texts[key] = _Waiting(self._numbers, now, now)
        self._numbers += 1
      text.came_last = now
      text.times += 1
      return max(text.number - self._served, 0)

  def comes_back(
      self,
      key: Hashable,
      begun: float,
      lives: int,
      now: float,
      longest_life: float | None = None) -> float:
    """When to ask again.

    Args:
      begun: when the text began that is in its place.
      lives: how many texts have to end there, one after another.
      longest_life: of a text in seconds, until one has ended.
    """
    with self._lock:
      text = self._texts[key]
      life = longest_life if self._life_secs is None else self._life_secs
      due = now if life is None else begun + lives * life
      if due <= now:
        since = text.came_first if life is None else due
        due = now + _SILENT_PART * (now - since)
      elif self._life_secs is None:
        # It may end much sooner.
        due = min(due, now + _UNKNOWN_LIFE_SECS)
      text.back_at = now + _within(_ROOM_SECS, due - now)
      return text.back_at

  def back_at(self, key: Hashable) -> float:
    """When it was to come back; 0 if it is not known."""
    text = self._texts.get(key)
    return 0.0 if text is None else text.back_at

  def leaves(self, key: Hashable) -> int:
    """It has a place; returns how often it came before."""
    with self._lock:
      text = self._texts.pop(key, None)
      if text is None:
        return 0
      self._served += 1
      return text.times

  def sweep(self, before: float) -> None:
    """Forgets those that came last before that: they are on other workers."""
    with self._lock:
      gone = [
          key for key, text in self._texts.items() if text.came_last < before
      ]
      for key in gone:
        del self._texts[key]
      self._served += len(gone)


def _within(bounds, value):
  least, most = bounds
  return min(max(value, least), most)
