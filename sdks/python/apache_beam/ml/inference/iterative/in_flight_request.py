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

"""A request from its submission to its end, in either mode. No Beam here."""

import dataclasses
import hashlib
import uuid

from apache_beam.ml.inference.iterative.result_stream import ResultStream
from apache_beam.ml.inference.iterative.session import Delta
from apache_beam.ml.inference.iterative.session import Request
from apache_beam.ml.inference.iterative.session import Session
from apache_beam.ml.inference.iterative.session import Transcript

# How often in a row a request is submitted again whose engine was lost, without
# a token between, and the seconds before: 0.25, 0.5, 1, ..., 35 in all.
_RETRIES = 8
_FIRST_RETRY_SECS = 0.25
_LONGEST_RETRY_SECS = 10.0


class InFlightRequest:
  """Submits a request, polls it, and says when to submit it again.

  Args:
    stream: makes its chunks.
    losses: how often in a row its engine was lost before.

  Attributes:
    stream: as above.
    session: that it was submitted to.
    submitted: when that was.
    losses: how often in a row its engine was lost.
    retry_at: when to submit it again, if its engine was lost.
  """
  __slots__ = (
      'stream', 'session', 'submitted', 'losses', 'retry_at', '_session_id')

  def __init__(self, stream: ResultStream, losses: int = 0):
    self.stream = stream
    self.session: Session | None = None
    self.submitted: float | None = None
    self.losses = losses
    self.retry_at: float | None = None
    self._session_id = ''

  def submit(
      self,
      session: Session,
      request: Request,
      transcript: Transcript,
      now: float) -> None:
    """Submits it, after what is in the transcript.

    Under an id of its own: another transform may have the request's.
    """
    session.submit(self.renamed(request), transcript)
    self.was_submitted(session, now)

  def renamed(self, request: Request) -> Request:
    """With the id and the seed that it has in the session from now on."""
    self._session_id = f'{request.request_id}-{uuid.uuid4().hex}'
    request = dataclasses.replace(request, request_id=self._session_id)
    return _with_seed(request, self.stream.index)

  def was_submitted(self, session: Session, now: float) -> None:
    self.session = session
    self.submitted = now
    self.retry_at = None
    self.stream.was_submitted()

  def cancel(self) -> None:
    """Stops the engine's work for it, if there is any."""
    if self.session is not None:
      self.session.cancel(self._session_id)

  def poll(self, now: float) -> Delta | None:
    """What is due, if anything.

    If the engine was lost and may be tried again, the delta has no finish reason
    and may be empty, and ``retry_at`` is set.
    """
    try:
      delta = self.session.poll(self._session_id, ready=self._is_ready)
    except KeyError:
      delta = _lost('the session does not know the request any more')
    if delta is None:
      if self.session.is_alive:
        return None
      delta = _lost('the session has died')
    delta = self.stream.in_time(delta)
    if delta.tokens:
      self.losses = 0
    return self._to_retry(delta, now) if delta.is_lost else delta

  def overdue(self) -> str | None:
    """Why it has to be given up, as an error; None if it has time."""
    failure = None
    if self.session is not None:
      failure = self.session.last_failure(self._session_id)
    return self.stream.overdue(failure)

  def _is_ready(self, delta):
    return self.stream.is_ready(delta)

  def _to_retry(self, delta, now):
    made = self.stream.transcript.tokens + delta.tokens
    if self.losses >= _RETRIES or made and self.session.resumes == 'none':
      return delta
    seconds = min(_FIRST_RETRY_SECS * 2**self.losses, _LONGEST_RETRY_SECS)
    self.retry_at = now + seconds
    self.losses += 1
    self.stream.failure = delta.error
    return dataclasses.replace(
        delta, finish_reason=None, error=None, is_lost=False)


def seed_at(seed: int, index: int) -> int:
  """The seed of a result that resumes at a chunk; that of chunk 0 is seed.

  With the seed of its start, the engine would draw the same random numbers
  again, for other tokens.
  """
  if not index:
    return seed
  digest = hashlib.sha256(f'{seed} {index}'.encode()).digest()
  return int.from_bytes(digest[:4], 'big') >> 1


def _with_seed(request, index):
  seed = request.args.get('seed')
  if not index or not isinstance(seed, int):
    return request
  args = {name: arg for name, arg in request.args.items() if name != 'seed'}
  return dataclasses.replace(request, args=args, seed=seed_at(seed, index))


def _lost(why):
  return Delta(finish_reason='error', error=f'engine: {why}', is_lost=True)
