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

"""An input that is generated for, from its submission to its last chunk."""

import dataclasses
from collections.abc import Callable
from typing import Any

from apache_beam.ml.inference.iterative.chunk import Chunk
from apache_beam.ml.inference.iterative.metrics import IterativeMetrics
from apache_beam.ml.inference.iterative.registry import Lease
from apache_beam.ml.inference.iterative.result_stream import ResultStream
from apache_beam.ml.inference.iterative.session import Request
from apache_beam.ml.inference.iterative.session import Session

__all__ = ['Flight']

# How often a request is submitted again whose engine was lost, and the seconds
# before the first time; each wait is twice the one before.
_RETRIES = 4
_FIRST_RETRY_SECS = 0.25


class Flight:
  """Polls a request, and submits it again where its engine was lost.

  Args:
    request: what is submitted.
    stream: makes chunks of what comes.
    lease: of the session.
    names: that no other input may have meanwhile.
    emit: what the consumer does with a chunk.
    clock: of ``time.monotonic``.
  """
  def __init__(
      self,
      request: Request,
      stream: ResultStream,
      lease: Lease,
      names: set[tuple],
      emit: Callable[[Chunk], Any],
      clock: Callable[[], float]):
    self.request = request
    self.stream = stream
    self.names = names
    self.emit = emit
    self._lease = lease
    self._clock = clock
    self._session = None
    self._retries = 0
    self._retry_at: float | None = None

  def submit(self) -> None:
    session = self._lease.session()
    session.submit(self.request, self.stream.transcript)
    self.was_submitted(session)

  def was_submitted(self, session: Session) -> None:
    self._session = session
    self.stream.was_submitted()

  def advance(self, metrics: IterativeMetrics) -> Chunk | None:
    """The next chunk if it is due; then the flight may be over."""
    if self._retry_at is not None and self._clock() >= self._retry_at:
      self._retry_at = None
      metrics.count('resumed', bool(self.stream.transcript.tokens))
      self.submit()
    delta = None
    if self._retry_at is None:
      delta = self._session.poll(
          self.request.request_id, ready=self.stream.is_ready)
    if delta is None:
      return self._give_up_if_overdue(metrics)
    has_ended = delta.finish_reason is not None
    delta = self.stream.in_time(delta)
    if delta.is_lost and self._can_try_again(delta):
      self._retry_at = self._clock() + _FIRST_RETRY_SECS * 2**self._retries
      self._retries += 1
      metrics.count('retries')
      self.stream.failure = delta.error
      delta = dataclasses.replace(
          delta, finish_reason=None, error=None, is_lost=False)
      if not delta.tokens and not delta.text:
        return None
    made_before = self.stream.last_made
    chunk = self.stream.take(delta)
    metrics.chunk(self.stream, delta, chunk, made_before)
    if chunk.is_last and not has_ended:
      self._session.cancel(self.request.request_id)
    return chunk

  def cancel(self) -> None:
    if self._session is not None:
      self._session.cancel(self.request.request_id)

  def _can_try_again(self, delta):
    made = self.stream.transcript.tokens + delta.tokens
    return self._retries < _RETRIES and (
        not made or self._session.resumes != 'none')

  def _give_up_if_overdue(self, metrics):
    failure = None
    if self._session is not None:
      failure = self._session.last_failure(self.request.request_id)
    error = self.stream.overdue(failure)
    if error is None:
      return None
    self.cancel()
    chunk = self.stream.fail(error)
    metrics.count('chunks')
    metrics.last(chunk)
    return chunk
