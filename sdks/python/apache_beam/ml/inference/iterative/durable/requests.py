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

"""The in-flight requests of a worker process in durable mode. No Beam here.

A bundle is short where each chunk is committed on its own, so what is known of
a request beside its restriction outlives the bundle: it belongs to the session,
and all DoFns that use the session share it.
"""

import itertools
import threading
import time
from collections.abc import Callable
from collections.abc import Hashable
from typing import NamedTuple

from apache_beam.ml.inference.iterative.durable.pending_requests import PendingRequests
from apache_beam.ml.inference.iterative.durable.poll_schedule import EngineSpeed
from apache_beam.ml.inference.iterative.durable.poll_schedule import PollTimes
from apache_beam.ml.inference.iterative.durable.restriction import TranscriptRestriction
from apache_beam.ml.inference.iterative.durable.restriction import unpack
from apache_beam.ml.inference.iterative.durable.runner_delays import RunnerDelays
from apache_beam.ml.inference.iterative.in_flight_request import InFlightRequest
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.ml.inference.iterative.registry import InFlight
from apache_beam.ml.inference.iterative.registry import Lease
from apache_beam.ml.inference.iterative.result_stream import ResultStream
from apache_beam.ml.inference.iterative.session import Delta
from apache_beam.ml.inference.iterative.session import Session

# A request that was not polled for so long is at another worker.
_FORGET_SECS = 600.0
# A request is polled at least so often, since it may end before it has the tokens
# of a chunk.
_MAX_POLL_SECS = 5.0
# Where a runner takes whole seconds only, a request may be polled so often for
# each chunk of its tokens, and so often more for its first and its last; else it
# resumes up to a second late. A pending one may be polled so often in vain.
_POLLS_PER_CHUNK = 1.5
_FIRST_POLLS = 8
_LAST_POLLS = 4
_PENDING_POLLS = 1


class RequestKey(NamedTuple):
  """Names a request in a process.

  Attributes:
    owner: of the transform.
    request_id: of its input. Another input may have the same one, in another
      transform or window.
    nonce: of its input.
    windows: those of its element. A runner may split an element by its windows;
      each part is then a request of its own.
  """
  owner: str
  request_id: str
  nonce: int
  windows: tuple[Hashable, ...] = ()

  def names(self) -> list[tuple]:
    """No other request may have one of them while this one is in flight."""
    windows = self.windows or (None, )
    return [(self.owner, self.request_id, window) for window in windows]


class DurableRequest(InFlightRequest):
  """An in-flight request whose chunks are committed one by one.

  Attributes:
    key: names it in this process.
    options: of its transform.
    limit: of its tokens, if there is one.
    claim: of the restriction that the session resumed from.
    packed_ids: the token ids that it has emitted, as a restriction has them.
    prepared: the transition that was made of it and is not claimed yet.
    polled_at: when it was last polled.
    taken_until: when the newest token that was taken was made, since then.
    token_secs: of a token of its last chunk.
    unread: what the session has for it, and too little for a chunk.
    poll_at: when it should be polled next, if it was deferred.
    deferred_at, delay: when it was, and the delay that the runner was asked for.
    checkpoints: how many it has had.
    is_early: whether it is polled before a chunk is expected.
    early_polls: how often it was.
    owed: tokens by which chunks must be longer, to make up for checkpoints
      without a chunk; negative if they were longer.
  """
  __slots__ = (
      'key',
      'options',
      'limit',
      'claim',
      'packed_ids',
      'prepared',
      'polled_at',
      'taken_until',
      'token_secs',
      'unread',
      'poll_at',
      'deferred_at',
      'delay',
      'checkpoints',
      'is_early',
      'early_polls',
      'owed')

  def __init__(
      self,
      key: RequestKey,
      stream: ResultStream,
      restriction: TranscriptRestriction,
      now: float,
      options: IterativeOptions,
      limit: int | None = None):
    super().__init__(stream, restriction.losses)
    self.key = key
    self.options = options
    self.limit = limit
    self.claim = restriction.claim
    self.packed_ids = unpack(restriction.packed)[1]
    self.prepared = None
    self.polled_at = now
    # Until it is.
    self.submitted = now
    self.taken_until: float | None = None
    self.token_secs: float | None = None
    self.unread: Delta | None = None
    self.poll_at: float | None = None
    self.deferred_at: float | None = None
    self.delay = 0.0
    self.checkpoints = 0
    self.is_early = False
    self.early_polls = 0
    # The first checkpoint has no chunk: the request is submitted.
    self.owed = -options.chunk_tokens

  def was_submitted(self, session: Session, now: float) -> None:
    super().was_submitted(session, now)
    self.taken_until = self.unread = None

  def poll(self, now: float) -> Delta | None:
    self.polled_at = now
    self.unread = None
    delta = super().poll(now)
    if delta is not None:
      self.unread = None
    return delta

  def chunk_taken(self, delta: Delta) -> None:
    """A chunk was made of the delta."""
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
    # Read once, as other threads ask too.
    unread = self.unread
    return self.taken_until if unread is None else unread.made

  def tokens_to_come(self, least: bool = False) -> int:
    """How many must be made until a chunk is due, or at least."""
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
    return max(wanted - self._unread_tokens(), 0)

  def polls_left(self) -> float:
    """How often it may resume without a chunk, where delays are cut."""
    made = self.stream.transcript.tokens
    allowed = _POLLS_PER_CHUNK * (made / self.options.chunk_tokens + 2)
    if not self.stream.index:
      allowed += _FIRST_POLLS
    elif self.limit is not None:
      if made + self._unread_tokens() + self.tokens_to_come() >= self.limit:
        allowed += _LAST_POLLS
    return allowed + self.early_polls - self.checkpoints

  def _unread_tokens(self):
    unread = self.unread
    return 0 if unread is None else unread.tokens

  def _is_ready(self, delta):
    self.unread = delta
    return self.stream.is_ready(delta, max(self.owed, 0))


class DurableRequests:
  """The in-flight and pending requests of a session, and when to poll them.

  Args:
    clock: of ``time.monotonic``.
    in_flight: counts the requests of the session, those of others too.

  Attributes:
    queued: how many were submitted and have no token yet.
    speed: of the engine.
    delays: of the runner.
  """
  def __init__(
      self,
      clock: Callable[[], float] = time.monotonic,
      in_flight: InFlight | None = None):
    self._clock = clock
    self._in_flight = InFlight() if in_flight is None else in_flight
    self._lock = threading.Lock()
    self._requests: dict[RequestKey, DurableRequest] = {}
    self._by_name: dict[tuple, DurableRequest] = {}
    self._swept = clock()
    self.queued = 0
    self.speed = EngineSpeed()
    self.delays = RunnerDelays()
    self._poll_times = PollTimes()
    self._pending = PendingRequests()

  def __len__(self) -> int:
    return len(self._requests)

  def get(self, key: RequestKey) -> DurableRequest | None:
    return self._requests.get(key)

  def has_namesake(self, key: RequestKey) -> bool:
    """Whether another input has its request id, in the same window."""
    found = map(self._by_name.get, key.names())
    return any(request and request.key.nonce != key.nonce for request in found)

  def are_full(self, most: int) -> bool:
    """Whether so many are in flight, without those that nobody polls."""
    self._sweep()
    return len(self._in_flight) >= most

  def add(self, request: DurableRequest, most: int) -> bool:
    """Returns False if so many are in flight."""
    with self._lock:
      if not self._in_flight.add(self, 1, most):
        return False
      # A runner that kept its windows together before may split them now.
      before = {self._by_name.get(name) for name in request.key.names()}
      self._requests[request.key] = request
      for name in request.key.names():
        self._by_name[name] = request
      self.queued += request.stream.first_made is None
    for other in before - {None}:
      self.drop(other)
    request.checkpoints = self._pending.remove(request.key)
    request.owed += request.checkpoints * request.options.chunk_tokens
    return True

  def forget(self, request: DurableRequest) -> None:
    with self._lock:
      if self._requests.get(request.key) is request:
        del self._requests[request.key]
        for name in request.key.names():
          if self._by_name.get(name) is request:
            del self._by_name[name]
        self._in_flight.remove(self)
        self.queued -= request.stream.first_made is None
        if request.taken_until is not None:
          self._pending.ended(self._clock() - request.submitted)

  def drop(self, request: DurableRequest) -> None:
    """Forgets a request, and stops the engine's work for it if there is any."""
    self.forget(request)
    request.cancel()

  def chunk_taken(
      self, request: DurableRequest, delta: Delta, is_first: bool) -> None:
    """A chunk was made of a delta of the request."""
    request.chunk_taken(delta)
    if is_first and delta.tokens:
      self.speed.first(delta.started - request.submitted)
      with self._lock:
        self.queued -= 1
    if request.token_secs is not None:
      self.speed.token(request.token_secs)

  def defer(self, request: DurableRequest, has_chunk: bool) -> float:
    """Counts a checkpoint; returns when to poll the request next."""
    request.checkpoints += 1
    if not has_chunk and request.is_early:
      request.early_polls += 1
    elif not has_chunk and not self.delays.are_cut:
      # Where they are cut, polls_left bounds how often it resumes in vain.
      request.owed += request.options.chunk_tokens
    now = self._clock()
    due = self.speed.due_at(request, now)
    request.is_early = due > now + _MAX_POLL_SECS
    due = min(due, now + _MAX_POLL_SECS)
    if request.newest() is None:
      # Nobody knows when it begins.
      request.poll_at = self._poll_times.at(due, now, late=due - now)
    else:
      request.poll_at = self._poll_times.at(due, now)
    return request.poll_at

  def resumed(self, request: DurableRequest) -> None:
    """A request that was deferred is processed again."""
    if request.deferred_at is not None:
      self.delays.resumed(request.delay, self._clock() - request.deferred_at)
      request.deferred_at = None

  def delay(self, key: RequestKey, poll_at: float) -> float:
    """What to ask the runner for, so that a request resumes at that time."""
    request, now = self._requests.get(key), self._clock()
    wanted = max(poll_at - now, 0.0)
    if request is None:
      return self.delays.delay(wanted, _PENDING_POLLS)
    request.deferred_at = now
    request.delay = self.delays.delay(wanted, request.polls_left())
    return request.delay

  def next_due(self) -> float:
    """When the next chunk is due among requests deferred without a delay."""
    now = self._clock()
    with self._lock:
      requests = [
          request for request in self._requests.values() if request.delay < 1
      ]
    return min((self.speed.due_at(request, now) for request in requests),
               default=now)

  def poll_at(self, key: RequestKey) -> float | None:
    """When to poll a request next that was deferred, in flight or pending."""
    request = self._requests.get(key)
    return self._pending.poll_at(key) if request is None else request.poll_at

  def defer_pending(
      self, key: RequestKey, max_in_flight: int, limit: int | None) -> float:
    """Returns when to poll a request that could not be submitted yet.

    Args:
      key: of the request.
      max_in_flight: how many may be in flight.
      limit: of the tokens of a request, if it is known.
    """
    now = self._clock()
    before = self._pending.add(key, now)
    max_secs = None if limit is None else limit * self.speed.token_secs
    with self._lock:
      # In the order in which they were submitted, so that it is the next to end.
      request = next(
          itertools.islice(
              self._requests.values(), before % max_in_flight, None),
          None)
    begun = now if request is None else request.submitted
    rounds = 1 + before // max_in_flight
    due = self._pending.next_poll(key, begun, rounds, now, max_secs)
    return self._poll_times.at(due, now)

  def _sweep(self):
    """Cancels requests that no input of this worker polls any more."""
    now = self._clock()
    with self._lock:
      if now - self._swept < _FORGET_SECS / 10:
        return
      self._swept = now
      gone = [
          request for request in self._requests.values()
          if now - request.polled_at > _FORGET_SECS
      ]
    self._pending.sweep(now - _FORGET_SECS)
    for request in gone:
      self.drop(request)


def durable_requests(
    lease: Lease,
    clock: Callable[[], float] = time.monotonic) -> DurableRequests:
  """The requests of a session, shared by all DoFns of this process."""
  return lease.attached(
      DurableRequests, lambda: DurableRequests(clock, lease.in_flight))
