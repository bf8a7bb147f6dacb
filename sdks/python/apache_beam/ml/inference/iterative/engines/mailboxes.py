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

"""What sessions share: what was made and not yet taken, for each request."""

import abc
import dataclasses
import threading
import time
from collections.abc import Callable

import numpy as np

from apache_beam.ml.inference.iterative.session import Delta
from apache_beam.ml.inference.iterative.session import DuplicateRequest
from apache_beam.ml.inference.iterative.session import Request
from apache_beam.ml.inference.iterative.session import Session
from apache_beam.ml.inference.iterative.session import Transcript


class _Pending:
  """What was made for a request since it was last asked for."""
  __slots__ = ('deltas', 'tokens', '_shape')

  def __init__(self):
    self.deltas: list[Delta] = []
    self.tokens = 0
    self._shape = None

  def add(self, delta):
    """Raises ValueError if its values cannot be joined with those before."""
    if delta.values is not None:
      shape = np.atleast_1d(delta.values).shape[1:]
      if self._shape not in (None, shape):
        raise ValueError(
            'The values of a request are joined along their first axis, so all '
            f'of them have the other axes of the first, {self._shape}, not '
            f'{shape}.')
      self._shape = shape
    self.deltas.append(delta)
    self.tokens += delta.tokens

  @property
  def has_ended(self):
    return bool(self.deltas) and self.deltas[-1].finish_reason is not None

  def summary(self):
    return Delta(
        tokens=self.tokens,
        started=self.deltas[0].started,
        made=self.deltas[-1].made)


class BufferedSession(Session):
  """A session whose engine pushes what it makes, from a thread of its own.

  A request has one delta at most that waits: a slow consumer makes it longer,
  by no more than the model generates for the request, and never longer in
  number. Engines implement ``_start`` and ``_stop``, and call ``_push``.

  Args:
    clock: of ``time.monotonic``, in seconds.
  """
  def __init__(self, clock: Callable[[], float] = time.monotonic):
    self._clock = clock
    self._changed = threading.Condition()
    # What was made for a request and not taken. Joined when it is taken, since
    # joining at each push would take time by the square of the number.
    self._waiting: dict[str, _Pending] = {}
    self._pushes = 0
    # Bundles of several threads share a session; each is told of all news.
    self._seen_by_thread = threading.local()
    self._closed = False

  @abc.abstractmethod
  def _start(self, request: Request, resume_from: Transcript) -> None:
    """Hands the request to the engine; raises ValueError if it cannot be."""

  @abc.abstractmethod
  def _stop(self, request_id: str) -> None:
    """Tells the engine that nobody waits for the request any more."""

  def submit(self, request, resume_from=None):
    request_id = request.request_id
    with self._changed:
      if request_id in self._waiting:
        raise DuplicateRequest(
            f'The request id {request_id!r} is in flight already. Let '
            'request_id_fn give each input one of its own.')
      self._waiting[request_id] = _Pending()
      closed = self._closed
    if closed:
      self._fail(request_id, 'engine: the session is closed', is_lost=True)
      return
    resume_from = resume_from or Transcript()
    if resume_from.tokens and self.resumes == 'none':
      self._fail(
          request_id,
          f'lost: the connection broke after {resume_from.tokens} tokens, and '
          'the engine cannot go on from there')
      return
    try:
      self._start(request, resume_from)
    except ValueError as e:
      self._fail(request_id, f'invalid: {e}')
    except Exception as e:  # pylint: disable=broad-except
      self._fail(request_id, f'engine: it did not take the request: {e!r}')

  def poll(self, request_id, timeout=0.0, ready=None):
    def can_be_taken():
      pending = self._waiting[request_id]
      return bool(pending.deltas) and (
          ready is None or pending.has_ended or ready(pending.summary()))

    with self._changed:
      if not can_be_taken() and not (timeout > 0 and self._changed.wait_for(
          can_be_taken, timeout)):
        return None
      pending = self._waiting[request_id]
      if pending.has_ended:
        del self._waiting[request_id]
      else:
        self._waiting[request_id] = _Pending()
    return Delta.join(pending.deltas)

  def knows(self, request_id):
    return request_id in self._waiting

  def wait(self, timeout):
    seen = getattr(self._seen_by_thread, 'pushes', 0)
    with self._changed:
      news = self._changed.wait_for(lambda: self._pushes != seen, timeout)
      self._seen_by_thread.pushes = self._pushes
      return news

  def cancel(self, request_id):
    with self._changed:
      pending = self._waiting.pop(request_id, None)
    if pending is not None and not pending.has_ended:
      self._stop(request_id)

  @property
  def is_alive(self):
    return not self._closed

  def close(self):
    """Engines that hold more than requests extend this."""
    with self._changed:
      self._closed = True
      unfinished = [
          key for key, pending in self._waiting.items() if not pending.has_ended
      ]
    for request_id in unfinished:
      self._fail(request_id, 'engine: the session was closed', is_lost=True)

  def _push(self, request_id: str, delta: Delta) -> bool:
    """Adds to what waits; a time that is missing is now.

    Returns:
      False if the request was cancelled or has ended: the engine can drop it.
    """
    now = self._clock()
    delta = dataclasses.replace(
        delta, started=delta.started or now, made=delta.made or now)
    with self._changed:
      pending = self._waiting.get(request_id)
      if pending is None or pending.has_ended:
        return False
      pending.add(delta)
      self._pushes += 1
      self._changed.notify_all()
      return True

  def _fail(self, request_id: str, error: str, is_lost: bool = False) -> bool:
    """Ends a request with an error ``'kind: message'``."""
    return self._push(
        request_id, Delta(finish_reason='error', error=error, is_lost=is_lost))
