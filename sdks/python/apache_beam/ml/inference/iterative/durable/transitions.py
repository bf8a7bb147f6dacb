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

"""The next transition of a durable request. No Beam here."""

import dataclasses
import random
import time
from collections.abc import Callable
from collections.abc import Hashable
from typing import Any
from typing import NamedTuple

from apache_beam.ml.inference.iterative.chunk import Chunk
from apache_beam.ml.inference.iterative.durable.requests import DurableRequest
from apache_beam.ml.inference.iterative.durable.requests import DurableRequests
from apache_beam.ml.inference.iterative.durable.requests import RequestKey
from apache_beam.ml.inference.iterative.durable.restriction import TranscriptRestriction
from apache_beam.ml.inference.iterative.durable.restriction import new_restriction
from apache_beam.ml.inference.iterative.durable.restriction import pack
from apache_beam.ml.inference.iterative.durable.restriction import pack_ids
from apache_beam.ml.inference.iterative.inputs import Inputs
from apache_beam.ml.inference.iterative.inputs import duplicate_of
from apache_beam.ml.inference.iterative.metrics import IterativeMetrics
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.ml.inference.iterative.registry import Lease
from apache_beam.ml.inference.iterative.result_stream import ResultStream
from apache_beam.ml.inference.iterative.session import Delta


class Transition(NamedTuple):
  """A new restriction of a request, and the chunk that is committed with it.

  Attributes:
    after: the new restriction, to be claimed.
    chunk: to be emitted then; None if only the restriction changes.
    delta: the source of the chunk.
    made_before: when the newest token before it was made.
    request: if it is in flight.
    is_retry: whether it is submitted again, since its engine was lost.
    cause: what was raised for its input, if anything was.
  """
  after: TranscriptRestriction
  chunk: Chunk | None
  delta: Delta | None = None
  made_before: float | None = None
  request: DurableRequest | None = None
  is_retry: bool = False
  cause: Exception | None = None


class Transitions:
  """Makes the transitions of requests from their restrictions.

  The session is a cache: a request is submitted again from its restriction where
  the session does not know it, or is at another chunk.

  Args:
    inputs: how elements become requests.
    options: of iterative inference.
    lease: of the session.
    requests: of the session.
    metrics: count requests and chunks.
    clock: of ``time.monotonic``.
    wall_clock: of ``time.time``.
    owner: of the transform; others may have requests of the same session.

  Attributes:
    begun: how many requests were submitted.
  """
  def __init__(
      self,
      inputs: Inputs,
      options: IterativeOptions,
      lease: Lease,
      requests: DurableRequests,
      metrics: IterativeMetrics,
      clock: Callable[[], float] = time.monotonic,
      wall_clock: Callable[[], float] = time.time,
      owner: str = ''):
    self._inputs = inputs
    self._options = options
    self._lease = lease
    self._requests = requests
    self._metrics = metrics
    self._clock = clock
    self._wall_clock = wall_clock
    self._owner = owner
    self._limit = inputs.handler.token_limit(inputs.inference_args)
    self.begun = 0

  def key(
      self,
      restriction: TranscriptRestriction,
      windows: tuple[Hashable, ...] = ()
  ) -> RequestKey:
    """Names its request in this process."""
    return RequestKey(
        self._owner, restriction.request_id, restriction.nonce, windows)

  def next(
      self,
      restriction: TranscriptRestriction,
      element: Any,
      windows: tuple[Hashable, ...] = ()) -> Transition | None:
    """The next transition, or None if there is none yet. Never waits."""
    key = self.key(restriction, windows)
    request = self._requests.get(key)
    if request is not None and request.claim != restriction.claim:
      # Its bundle failed, or another worker has taken it over.
      self._requests.drop(request)
      request = None
    if request is None and not restriction.claim:
      if self._requests.has_namesake(key):
        return self._duplicate(restriction, element)
    if restriction.is_cancelled:
      return self._cancelled(restriction, element, request)
    if restriction.error is not None:
      return self._failed(restriction, element, restriction.error)
    if request is None:
      return self._begin(restriction, element, key)
    return request.prepared or self._advance(restriction, element, request)

  def was_claimed(self, transition: Transition) -> None:
    """The runner commits the transition; the next one starts from it."""
    request, chunk = transition.request, transition.chunk
    if request is not None:
      request.prepared = None
      request.claim = transition.after.claim
      if transition.after.is_finished:
        self._metrics.checkpoints(request.checkpoints)
        self._requests.drop(request)
    self._metrics.count('retries', transition.is_retry)
    if chunk is not None and transition.delta is not None:
      self._metrics.chunk(
          request.stream, transition.delta, chunk, transition.made_before)
    elif chunk is not None:
      self._metrics.emitted(chunk)

  def defer(
      self,
      restriction: TranscriptRestriction,
      has_chunk: bool,
      windows: tuple[Hashable, ...] = ()) -> float:
    """Counts a checkpoint: the runner is given the rest of the request.

    Returns:
      When to poll it next, in seconds of clock.
    """
    self._metrics.count('checkpoints')
    self._metrics.count('empty_checkpoints', not has_chunk)
    key = self.key(restriction, windows)
    request = self._requests.get(key)
    if request is None:
      return self._requests.defer_pending(
          key, self._options.max_in_flight, self._limit)
    return self._requests.defer(request, has_chunk)

  def _begin(self, restriction, element, key):
    most = self._options.max_in_flight
    if self._requests.are_full(most):
      return None
    session = self._lease.session()
    request = DurableRequest(
        key,
        self._stream(restriction, element),
        restriction,
        self._clock(),
        self._options,
        self._limit)
    if not self._requests.add(request, most):
      return None
    try:
      transition = self._submit(restriction, element, request, session)
    except BaseException:
      self._requests.forget(request)
      raise
    if transition is not None:
      return transition
    self.begun += 1
    self._metrics.submitted(len(self._requests), self._requests.queued)
    return None

  def _submit(self, restriction, element, request, session):
    """Returns its last transition if it cannot be submitted."""
    try:
      to_submit = self._inputs.request(restriction.request_id, element)
      request.submit(
          session, to_submit, restriction.transcript(), self._clock())
    except ValueError as e:
      self._requests.forget(request)
      return self._failed(restriction, element, f'invalid: {e}', e)
    self._metrics.count('resumed', bool(restriction.tokens))
    return None

  def _advance(self, restriction, element, request):
    now = self._clock()
    if request.retry_at is not None:
      request.polled_at = now
      if now < request.retry_at:
        return self._overdue(restriction, request)
      session = self._lease.session()
      return self._submit(restriction, element, request, session)
    delta = request.poll(now)
    if delta is None:
      return self._overdue(restriction, request)
    is_retry = request.retry_at is not None
    if is_retry and delta.is_empty:
      after = dataclasses.replace(
          restriction, claim=_new_claim(), losses=request.losses)
      request.prepared = Transition(after, None, request=request, is_retry=True)
      return request.prepared
    if not is_retry and delta.finish_reason is None and self._is_too_long(
        restriction, delta):
      delta = dataclasses.replace(delta, finish_reason='length')
    request.prepared = self._take(restriction, request, delta, is_retry)
    return request.prepared

  def _take(self, restriction, request, delta, is_retry):
    stream = request.stream
    made_before, was_queued = stream.last_made, stream.first_made is None
    chunk = stream.take(delta)
    self._requests.chunk_taken(request, delta, was_queued)
    if self._options.stop_when is None:
      # Nobody asks for them; they take 36 bytes each here, 3 when packed.
      stream.transcript = dataclasses.replace(stream.transcript, token_ids=())
    # A prepared transition is never made again, so that ids are added once.
    request.packed_ids += pack_ids(delta.token_ids)
    after = self._after(restriction, request, chunk)
    return Transition(after, chunk, delta, made_before, request, is_retry)

  def _after(self, restriction, request, chunk):
    stream = request.stream
    ahead = self._wall_clock() - self._clock()
    times = (
        None if at is None else at + ahead
        for at in (stream.submitted, stream.first_made, stream.last_made))
    return TranscriptRestriction(
        restriction.request_id,
        restriction.nonce,
        _new_claim(),
        stream.index,
        stream.transcript.tokens,
        pack(stream.transcript.text, request.packed_ids),
        request.losses,
        restriction.arrived,
        *times,
        is_finished=chunk.is_last)

  def _is_too_long(self, restriction, delta):
    # A token id takes up to 3 bytes in vocabularies of up to 2 million.
    added = len(delta.text) + 3 * len(delta.token_ids)
    most = self._options.max_restriction_bytes
    return len(restriction.packed) + added > most

  def _overdue(self, restriction, request):
    error = request.overdue()
    if error is None:
      return None
    chunk = request.stream.fail(error)
    request.prepared = Transition(
        _finished(restriction), chunk, request=request)
    return request.prepared

  def _failed(self, restriction, element, error, cause=None):
    chunk = self._stream(restriction, element).fail(error)
    return Transition(_finished(restriction), chunk, cause=cause)

  def _duplicate(self, restriction, element):
    # Folds would take a chunk of its request id for one of the other input.
    renamed = new_restriction(
        f'{restriction.request_id}-duplicate-{restriction.nonce:016x}',
        wall_clock=lambda: restriction.arrived)
    error = duplicate_of(restriction.request_id)
    chunk = self._stream(renamed, element).fail(error)
    return Transition(_finished(restriction), chunk)

  def _cancelled(self, restriction, element, request):
    chunk = self._stream(restriction,
                         element).take(Delta(finish_reason='cancelled'))
    return Transition(_finished(restriction), chunk, request=request)

  def _stream(self, restriction, element):
    stream = ResultStream(
        restriction.request_id,
        self._inputs.example_of(element),
        self._inputs.handler.session_model_id(),
        self._options,
        self._clock() - max(self._wall_clock() - restriction.arrived, 0.0),
        self._clock,
        restriction.transcript(),
        restriction.index)
    ahead = self._wall_clock() - self._clock()
    stream.submitted, stream.first_made, stream.last_made = (
        None if at is None else at - ahead
        for at in (restriction.submitted, restriction.first, restriction.last))
    return stream


def _new_claim():
  return random.getrandbits(63)


def _finished(restriction):
  return dataclasses.replace(
      restriction,
      claim=_new_claim(),
      index=restriction.index + 1,
      is_finished=True)
