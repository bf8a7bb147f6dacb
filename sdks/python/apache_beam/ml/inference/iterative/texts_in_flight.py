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

"""The texts that a worker process generates. No Beam here.

A bundle is short where each chunk is committed on its own, so that what is
known of a text beside its restriction has to outlive it: it belongs to the
session, and is shared by all that use that.
"""

import dataclasses
import itertools
import threading
import time
import uuid
from collections.abc import Callable
from collections.abc import Hashable
from typing import NamedTuple

from apache_beam.ml.inference.iterative.durable_pace import Pace
from apache_beam.ml.inference.iterative.durable_pace import Returns
from apache_beam.ml.inference.iterative.durable_pace import WaitingRoom
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.ml.inference.iterative.registry import InFlight
from apache_beam.ml.inference.iterative.registry import Lease
from apache_beam.ml.inference.iterative.result_stream import ResultStream
from apache_beam.ml.inference.iterative.runner_delays import RunnerDelays
from apache_beam.ml.inference.iterative.session import Delta
from apache_beam.ml.inference.iterative.session import Request
from apache_beam.ml.inference.iterative.session import Session
from apache_beam.ml.inference.iterative.session import Transcript
from apache_beam.ml.inference.iterative.transcript_restriction import TranscriptRestriction
from apache_beam.ml.inference.iterative.transcript_restriction import unpack

__all__ = ['TextInFlight', 'TextKey', 'TextsInFlight', 'texts_in_flight']

# A text that was not asked for so long went to another worker.
_FORGET_SECS = 600.0
# Where a runner takes whole seconds only, a text may resume so often for each
# chunk of its tokens, and so often more for its first and its last; else it
# resumes up to a second late. Without a place in flight it may resume so often
# in vain.
_POLLS_PER_CHUNK = 1.5
_FIRST_POLLS = 8
_LAST_POLLS = 4
_ROOM_POLLS = 1


class TextKey(NamedTuple):
  """Names a text in a process.

  Attributes:
    owner: of the transform.
    request_id: of its input. Another input may have the same one, in another
      transform or window.
    nonce: of its input.
    windows: those of its element. Runners may part a text by its windows; each
      part goes on by itself then.
  """
  owner: str
  request_id: str
  nonce: int
  windows: tuple[Hashable, ...] = ()

  def names(self) -> list[tuple]:
    """What no other input has while this one is in flight."""
    windows = self.windows or (None, )
    return [(self.owner, self.request_id, window) for window in windows]


class TextInFlight:
  """A text that a session of this process generates.

  Attributes:
    key: names it in this process.
    stream: makes its chunks.
    options: of its transform.
    limit: of its tokens, if there is one.
    claim: of the restriction that the session goes on from.
    packed_ids: the token ids that it has emitted, as a restriction has them.
    session: that it was submitted to.
    prepared: the step that was made of it and is not claimed yet.
    retry_at: when to submit it again, if its engine was lost.
    polled_at: when it was last asked for.
    submitted: to that session, when.
    taken_until: when the newest token that was taken was made, since then.
    token_secs: of a token of its last chunk.
    waiting: what the session has for it, and too little for a chunk.
    back_at: when it should resume, if it was deferred.
    asked_at, delay: when it was, and the delay that the runner was asked for.
    checkpoints: how often it went.
    owed: tokens by which chunks must be longer, to make up for those times that
      had no chunk; less than none if they were longer.
  """
  __slots__ = (
      'key',
      'stream',
      'claim',
      'packed_ids',
      'session',
      'options',
      '_session_id',
      'limit',
      'prepared',
      'retry_at',
      'polled_at',
      'submitted',
      'taken_until',
      'token_secs',
      'waiting',
      'back_at',
      'asked_at',
      'delay',
      'checkpoints',
      'owed')

  def __init__(
      self,
      key: TextKey,
      stream: ResultStream,
      restriction: TranscriptRestriction,
      session: Session,
      now: float,
      options: IterativeOptions,
      limit: int | None = None):
    self.key = key
    self.stream = stream
    self.options = options
    self.limit = limit
    self.claim = restriction.claim
    self.packed_ids = unpack(restriction.packed)[1]
    self.session = session
    self._session_id = ''
    self.prepared = None
    self.retry_at: float | None = None
    self.polled_at = now
    self.submitted = now
    self.taken_until: float | None = None
    self.token_secs: float | None = None
    self.waiting: Delta | None = None
    self.back_at: float | None = None
    self.asked_at: float | None = None
    self.delay = 0.0
    self.checkpoints = 0
    # The first time has none: it is submitted.
    self.owed = -options.chunk_tokens

  def submit(self, request: Request, transcript: Transcript) -> None:
    """Under an id of its own: others may have its request id."""
    self._session_id = f'{request.request_id}-{uuid.uuid4().hex}'
    self.session.submit(
        dataclasses.replace(request, request_id=self._session_id), transcript)

  def cancel(self) -> None:
    """Stops the engine's work for it, if there is any."""
    self.session.cancel(self._session_id)

  def last_failure(self) -> str | None:
    return self.session.last_failure(self._session_id)

  def was_submitted(self, now: float) -> None:
    self.submitted = now
    self.taken_until = self.waiting = None
    self.stream.was_submitted()

  def poll(self, now: float) -> Delta | None:
    """What is due; an error that is lost if the session has gone."""
    self.polled_at = now
    self.waiting = None
    try:
      delta = self.session.poll(self._session_id, ready=self._is_ready)
    except KeyError:
      return _lost('the session does not know the request any more')
    if delta is not None:
      self.waiting = None
    elif not self.session.is_alive:
      return _lost('the session has died')
    return delta

  def took(self, delta: Delta) -> None:
    """A chunk is made of it."""
    if not delta.tokens:
      return
    if self.taken_until is not None:
      self.token_secs = (delta.made - self.taken_until) / delta.tokens
    elif delta.tokens > 1:
      self.token_secs = (delta.made - delta.started) / (delta.tokens - 1)
    self.taken_until = delta.made
    self.owed -= max(delta.tokens - self.options.chunk_tokens, 0)

  def newest(self) -> float | None:
    """When the newest token since its submission was made, if any was seen."""
    return self.taken_until if self.waiting is None else self.waiting.made

  def tokens_to_come(self, least: bool = False) -> int:
    """How many must be made until a chunk is due, or at least."""
    waiting = 0 if self.waiting is None else self.waiting.tokens
    if not self.stream.index:
      return 1
    owed = max(self.owed, 0)
    wanted = self.options.chunk_tokens + owed
    if least:
      wanted = self.options.least_tokens(owed)
    if self.limit is not None:
      left = self.limit - self.stream.transcript.tokens
      if left > 0:
        wanted = min(wanted, left)
    return max(wanted - waiting, 0)

  def polls_left(self) -> float:
    """How often it may resume without a chunk, where delays are cut."""
    made = self.stream.transcript.tokens
    allowed = _POLLS_PER_CHUNK * (made / self.options.chunk_tokens + 2)
    if not self.stream.index:
      allowed += _FIRST_POLLS
    elif self.limit is not None:
      waiting = 0 if self.waiting is None else self.waiting.tokens
      if made + waiting + self.tokens_to_come() >= self.limit:
        allowed += _LAST_POLLS
    return allowed - self.checkpoints

  def _is_ready(self, delta):
    self.waiting = delta
    return self.stream.is_ready(delta, max(self.owed, 0))


def _lost(why):
  return Delta(finish_reason='error', error=f'engine: {why}', is_lost=True)


class TextsInFlight:
  """All texts of a session, and when they come back.

  Args:
    clock: of ``time.monotonic``.
    in_flight: counts the requests of the session, those of others too.

  Attributes:
    queued: how many were submitted and have no token yet.
    pace: of the engine.
    delays: of the runner.
  """
  def __init__(
      self,
      clock: Callable[[], float] = time.monotonic,
      in_flight: InFlight | None = None):
    self._clock = clock
    self._in_flight = InFlight() if in_flight is None else in_flight
    self._lock = threading.Lock()
    self._texts: dict[TextKey, TextInFlight] = {}
    self._by_name: dict[tuple, TextInFlight] = {}
    self._swept = clock()
    self.queued = 0
    self.pace = Pace()
    self.delays = RunnerDelays()
    self._returns = Returns()
    self._room = WaitingRoom()

  def __len__(self) -> int:
    return len(self._texts)

  def get(self, key: TextKey) -> TextInFlight | None:
    return self._texts.get(key)

  def has_namesake(self, key: TextKey) -> bool:
    """Whether another input has its request id, in the same window."""
    found = map(self._by_name.get, key.names())
    return any(text and text.key.nonce != key.nonce for text in found)

  def are_full(self, most: int) -> bool:
    """Whether there are so many, without those that nobody asks for any more."""
    self._sweep()
    return len(self._in_flight) >= most

  def add(self, text: TextInFlight, most: int) -> bool:
    """Returns False if there are so many."""
    with self._lock:
      if not self._in_flight.add(self, 1, most):
        return False
      # A runner that kept its windows together before may part them now.
      before = {self._by_name.get(name) for name in text.key.names()}
      self._texts[text.key] = text
      for name in text.key.names():
        self._by_name[name] = text
      self.queued += text.stream.first_made is None
    for other in before - {None}:
      self.drop(other)
    text.checkpoints = self._room.leaves(text.key)
    text.owed += text.checkpoints * text.options.chunk_tokens
    return True

  def forget(self, text: TextInFlight) -> None:
    with self._lock:
      if self._texts.get(text.key) is text:
        del self._texts[text.key]
        for name in text.key.names():
          if self._by_name.get(name) is text:
            del self._by_name[name]
        self._in_flight.remove(self)
        self.queued -= text.stream.first_made is None
        if text.taken_until is not None:
          self._room.ended(self._clock() - text.submitted)

  def drop(self, text: TextInFlight) -> None:
    """Forgets a text, and stops the engine's work for it if there is any."""
    self.forget(text)
    text.cancel()

  def took(self, text: TextInFlight, delta: Delta, is_first: bool) -> None:
    """A chunk was made of what a text had."""
    text.took(delta)
    if is_first and delta.tokens:
      self.pace.first(delta.started - text.submitted)
      with self._lock:
        self.queued -= 1
    if text.token_secs is not None:
      self.pace.token(text.token_secs)

  def goes(self, text: TextInFlight, has_chunk: bool) -> float:
    """A text is left to the runner; returns when it should come back."""
    text.checkpoints += 1
    if not has_chunk and not self.delays.are_cut:
      # Where they are cut, polls_left bounds how often it resumes in vain.
      text.owed += text.options.chunk_tokens
    now = self._clock()
    due = self.pace.due_at(text, now)
    if text.newest() is None:
      # Nobody knows when it begins.
      text.back_at = self._returns.at(due, now, late=due - now)
    else:
      text.back_at = self._returns.at(due, now)
    return text.back_at

  def resumed(self, text: TextInFlight) -> None:
    """A text that was deferred is processed again."""
    if text.asked_at is not None:
      self.delays.resumed(text.delay, self._clock() - text.asked_at)
      text.asked_at = None

  def delay(self, key: TextKey, back_at: float) -> float:
    """What to ask the runner for, so that a text resumes at that time."""
    text, now = self._texts.get(key), self._clock()
    wanted = max(back_at - now, 0.0)
    if text is None:
      return self.delays.delay(wanted, _ROOM_POLLS)
    text.asked_at = now
    text.delay = self.delays.delay(wanted, text.polls_left())
    return text.delay

  def next_due(self) -> float:
    """When the next chunk is due of those that resume without a delay."""
    now = self._clock()
    with self._lock:
      texts = [text for text in self._texts.values() if text.delay < 1]
    return min((self.pace.due_at(text, now) for text in texts), default=now)

  def back_at(self, key: TextKey) -> float | None:
    """When a text should come back that went, in flight or not."""
    text = self._texts.get(key)
    return self._room.back_at(key) if text is None else text.back_at

  def has_no_room(self, key: TextKey, places: int, limit: int | None) -> float:
    """Returns when a text should come back for one of so many places.

    Args:
      limit: of the tokens of a text, if it is known.
    """
    now = self._clock()
    before = self._room.comes(key, now)
    longest = None if limit is None else limit * self.pace.token_secs
    with self._lock:
      # In the order in which they were submitted, so that it is the next to end.
      text = next(
          itertools.islice(self._texts.values(), before % places, None), None)
    begun = now if text is None else text.submitted
    due = self._room.comes_back(key, begun, 1 + before // places, now, longest)
    return self._returns.at(due, now)

  def _sweep(self):
    """Cancels what no input of this worker asks for any more."""
    now = self._clock()
    with self._lock:
      if now - self._swept < _FORGET_SECS / 10:
        return
      self._swept = now
      gone = [
          text for text in self._texts.values()
          if now - text.polled_at > _FORGET_SECS
      ]
    self._room.sweep(now - _FORGET_SECS)
    for text in gone:
      self.drop(text)


def texts_in_flight(
    lease: Lease, clock: Callable[[], float] = time.monotonic) -> TextsInFlight:
  """Those of a session of this process."""
  return lease.attached(
      TextsInFlight, lambda: TextsInFlight(clock, lease.in_flight))
