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

import threading
import time
import weakref
from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Iterable

from apache_beam.ml.inference.iterative.result_stream import ResultStream
from apache_beam.ml.inference.iterative.session import Delta
from apache_beam.ml.inference.iterative.session import Session
from apache_beam.ml.inference.iterative.transcript_restriction import TranscriptRestriction
from apache_beam.ml.inference.iterative.transcript_restriction import unpack

__all__ = ['TextInFlight', 'TextsInFlight', 'texts_in_flight']

# A text that was not asked for so long went to another worker.
_FORGET_SECS = 600.0
# Between two looks for a chunk that is ready, at least, so that an engine that
# makes a token now and then does not keep a waiting worker busy.
_LOOK_SECS = 0.02
_LONGEST_LOOK_SECS = 0.25


class TextInFlight:
  """A text that a session of this process generates.

  Attributes:
    stream: makes its chunks.
    nonce: of its input.
    claim: of the restriction that the session goes on from.
    packed_ids: the token ids that it has emitted, as a restriction has them.
    session: that it was submitted to.
    pending: what was taken from the session and is not in a chunk yet.
    prepared: the step that was made of it and is not claimed yet.
    retry_at: when to submit it again, if its engine was lost.
    polled_at: when it was last asked for.
  """
  __slots__ = (
      'stream',
      'nonce',
      'claim',
      'packed_ids',
      'session',
      'pending',
      'prepared',
      'retry_at',
      'polled_at')

  def __init__(
      self,
      stream: ResultStream,
      restriction: TranscriptRestriction,
      session: Session,
      now: float):
    self.stream = stream
    self.nonce = restriction.nonce
    self.claim = restriction.claim
    self.packed_ids = unpack(restriction.packed)[1]
    self.session = session
    self.pending: Delta | None = None
    self.prepared = None
    self.retry_at: float | None = None
    self.polled_at = now

  @property
  def request_id(self) -> str:
    return self.stream.request_id

  def poll(self, now: float) -> Delta | None:
    """What is due; an error that is lost if the session has gone."""
    self.polled_at = now
    delta, self.pending = self.pending, None
    if delta is not None:
      return delta
    try:
      delta = self.session.poll(self.request_id, ready=self.stream.is_ready)
    except KeyError:
      return _lost('the session does not know the request any more')
    if delta is None and not self.session.is_alive:
      return _lost('the session has died')
    return delta

  def is_due(self, now: float) -> bool:
    """Whether there is something to do for it."""
    if self.retry_at is not None:
      return now >= self.retry_at
    if self.prepared is None and self.pending is None:
      self.pending = self.poll(now)
    return (
        self.prepared is not None or self.pending is not None or
        self.stream.overdue() is not None)


def _lost(why):
  return Delta(finish_reason='error', error=f'engine: {why}', is_lost=True)


class TextsInFlight:
  """All texts of a session, and when to wait for them.

  Args:
    clock: of ``time.monotonic``.
    sleep: of ``time.sleep``.
  """
  def __init__(
      self,
      clock: Callable[[], float] = time.monotonic,
      sleep: Callable[[float], None] = time.sleep):
    self._clock = clock
    self._sleep = sleep
    self._lock = threading.Lock()
    self._texts: dict[str, TextInFlight] = {}
    # Those that had nothing to emit since a worker last waited.
    self._idle: set[str] = set()
    self._swept = clock()
    # Submitted, and without a token yet.
    self.queued = 0

  def __len__(self) -> int:
    return len(self._texts)

  def get(self, request_id: str) -> TextInFlight | None:
    return self._texts.get(request_id)

  def add(self, text: TextInFlight, most: int) -> bool:
    """Returns False if there are so many, or one of its request id."""
    with self._lock:
      if len(self._texts) >= most or text.request_id in self._texts:
        return False
      self._texts[text.request_id] = text
      self.queued += text.stream.first_made is None
    self._sweep()
    return True

  def has_begun(self) -> None:
    """A text has its first token."""
    with self._lock:
      self.queued -= 1

  def forget(self, text: TextInFlight) -> None:
    with self._lock:
      if self._texts.get(text.request_id) is text:
        del self._texts[text.request_id]
        self.queued -= text.stream.first_made is None

  def drop(self, text: TextInFlight) -> None:
    """Forgets a text, and stops the engine's work for it if there is any."""
    self.forget(text)
    text.session.cancel(text.request_id)

  def was_idle(self, request_id: str) -> bool:
    """Notes that there was nothing to emit.

    Returns:
      Whether that was so before, since a worker last waited: then each text
      was asked for, and it is time to wait.
    """
    if request_id in self._idle:
      return True
    self._idle.add(request_id)
    return False

  def pause(self, seconds: float) -> None:
    self._sleep(seconds)
    self._idle.clear()

  def wait(
      self,
      texts: Iterable[TextInFlight],
      seconds: float,
      room: int | None = None) -> None:
    """Waits until one of the texts is due, at most so many seconds.

    Args:
      texts: those of a bundle.
      room: also until fewer are in flight than that, if given.
    """
    deadline = self._clock() + seconds
    texts = list(texts)
    session = texts[0].session if texts else None
    look = _LOOK_SECS
    while True:
      left = deadline - self._clock()
      if left <= 0:
        break
      self._sleep(min(look, left))
      begun = self._clock()
      if any(text.is_due(begun) for text in texts):
        break
      if room is not None and len(self._texts) < room:
        break
      # Looking costs at most a twentieth of the time.
      look = max(_LOOK_SECS, 20 * (self._clock() - begun))
      left = deadline - self._clock()
      if session is not None and left > 0:
        session.wait(min(left, _LONGEST_LOOK_SECS))
    self._idle.clear()

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
    for text in gone:
      self.drop(text)


_lock = threading.Lock()
_of_sessions: weakref.WeakValueDictionary[Hashable, TextsInFlight] = (
    weakref.WeakValueDictionary())


def texts_in_flight(session_key: Hashable) -> TextsInFlight:
  """Those of a session of this process, as long as anybody holds them."""
  with _lock:
    texts = _of_sessions.get(session_key)
    if texts is None:
      texts = _of_sessions[session_key] = TextsInFlight()
    return texts
