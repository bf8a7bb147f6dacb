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

"""Emits chunks while a bundle is processed."""

import time
import uuid
from collections.abc import Callable

import apache_beam as beam
from apache_beam.ml.inference.iterative import registry
from apache_beam.ml.inference.iterative.dead_letters import DeadLetters
from apache_beam.ml.inference.iterative.emitted import Emitted
from apache_beam.ml.inference.iterative.in_flight_request import InFlightRequest
from apache_beam.ml.inference.iterative.inputs import Inputs
from apache_beam.ml.inference.iterative.inputs import duplicate_of
from apache_beam.ml.inference.iterative.inputs import emitted_before
from apache_beam.ml.inference.iterative.inputs import request_id_of
from apache_beam.ml.inference.iterative.metrics import IterativeMetrics
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.ml.inference.iterative.result_stream import ResultStream

# How often is looked for what is due by time.
_WAIT_SECS = 0.05


class InBundleDoFn(beam.DoFn):
  """Submits elements, and emits chunks as they are made, interleaved.

  All of them belong to the bundle: fused steps see each at once, and if the
  bundle fails they see those of the next attempt too. An input in several
  windows is generated for once, where the runner leaves its windows together.

  Args:
    inputs: how elements become requests.
    options: of iterative inference.
    session_key: the name of the model in the registry of sessions.
    namespace: of the metrics.
    batched: whether an element is a batch.
    by_length: whether batches were chosen by the lengths of their inputs.
    dead_letters: where inputs that fail go, if not among the chunks.
    clock: of ``time.monotonic``.
  """
  def __init__(
      self,
      inputs: Inputs,
      options: IterativeOptions,
      session_key: registry.SessionKey | str,
      namespace: str,
      *,
      batched: bool = False,
      by_length: bool = False,
      dead_letters: DeadLetters | None = None,
      clock: Callable[[], float] = time.monotonic):
    self._inputs = inputs
    self._options = options
    self._session_key = session_key
    self._namespace = namespace
    self._batched = batched
    self._by_length = by_length
    self._dead_letters = dead_letters
    self._clock = clock
    self._lease = None

  def setup(self):
    self._requests: list[_Request] = []
    # Pairs of a window and a request id.
    self._names: set[tuple] = set()
    handler = self._inputs.handler
    handler.set_environment_vars()
    self._metrics = IterativeMetrics(self._namespace)
    # Loads the model, as other models are in setup.
    self._lease = registry.acquire_open(
        self._session_key,
        handler.open_session,
        self._options.session_idle_secs)

  def teardown(self):
    if self._lease is None:
      # The model did not load.
      return
    # Those of a bundle that failed: what ran it is not used again.
    self._cancel()
    self._lease.release()
    self._lease = None

  def start_bundle(self):
    self._cancel()

  def _cancel(self):
    for request in self._requests:
      request.cancel()
    self._lease.in_flight.remove(self, len(self._requests))
    self._requests.clear()
    self._names.clear()

  def process(self, element, windowed_value=beam.DoFn.WindowedValueParam):
    arrived, limit = self._clock(), self._options.max_in_flight
    elements = element if self._batched else [element]
    for start in range(0, len(elements), limit):
      requests = []
      for one in elements[start:start + limit]:
        yield from self._add(one, windowed_value, arrived, requests)
      yield from self._submit(requests)
    yield from self._advance()

  def finish_bundle(self):
    while self._requests:
      yield from self._advance_or_wait()

  def _add(self, element, windowed_value, arrived, requests):
    """Adds to requests, or emits why nothing is generated for the element."""
    def emit(chunk):
      return self._outputs(element, chunk, windowed_value, failure)

    request_id, failure = uuid.uuid4().hex, None
    request, error, before = None, None, Emitted()
    try:
      request_id = request_id_of(self._options, element)
      before = emitted_before(self._options, element)
      request = self._inputs.request(request_id, element)
    except ValueError as e:
      error, failure = f'invalid: {e}', e
    names = {(window, request_id) for window in windowed_value.windows}
    if not self._names.isdisjoint(names):
      error = error or duplicate_of(request_id)
      # Folds would take the chunk for one of the other input.
      request_id = f'{request_id}-duplicate-{uuid.uuid4().hex}'
      before = Emitted()
    stream = ResultStream(
        request_id,
        self._inputs.example_of(element),
        self._inputs.handler.session_model_id(),
        self._options,
        arrived,
        self._clock,
        before.transcript,
        before.chunks)
    if error is not None:
      chunk = stream.fail(error)
      self._metrics.emitted(chunk)
      yield from emit(chunk)
      return
    self._names |= names
    requests.append(_Request(stream, request, names, emit))

  def _submit(self, requests):
    """Emits other chunks until so many more requests may be in flight."""
    if not requests:
      return
    in_flight, limit = self._lease.in_flight, self._options.max_in_flight
    while not in_flight.add(self, len(requests), limit):
      yield from self._advance_or_wait()
    self._requests += requests
    session = self._lease.session()
    if self._batched and not any(r.stream.transcript.tokens for r in requests):
      session.submit_batch([r.renamed(r.request) for r in requests],
                           self._by_length)
      for request in requests:
        request.was_submitted(session, self._clock())
    else:
      for request in requests:
        request.submit(
            session, request.request, request.stream.transcript, self._clock())
    queued = sum(r.stream.first_made is None for r in self._requests)
    for _ in requests:
      self._metrics.submitted(len(in_flight), queued)

  def _advance_or_wait(self):
    emitted = False
    for output in self._advance():
      emitted = True
      yield output
    if not emitted:
      self._lease.session().wait(_WAIT_SECS)

  def _advance(self):
    for request in list(self._requests):
      chunk = self._next_chunk(request)
      if chunk is None:
        continue
      if chunk.is_last:
        request.cancel()
        self._requests.remove(request)
        self._names -= request.names
        self._lease.in_flight.remove(self)
      yield from request.emit(chunk)

  def _next_chunk(self, request):
    """The next chunk of a request, or None if none is due."""
    now, stream = self._clock(), request.stream
    if request.retry_at is not None and now >= request.retry_at:
      self._metrics.count('resumed', bool(stream.transcript.tokens))
      request.submit(
          self._lease.session(), request.request, stream.transcript, now)
    delta = request.poll(now) if request.retry_at is None else None
    if delta is None:
      error = request.overdue()
      if error is None:
        return None
      chunk = stream.fail(error)
      self._metrics.emitted(chunk)
      return chunk
    if request.retry_at is not None:
      self._metrics.count('retries')
      if delta.is_empty:
        return None
    made_before = stream.last_made
    chunk = stream.take(delta)
    self._metrics.chunk(stream, delta, chunk, made_before)
    return chunk

  def _outputs(self, element, chunk, windowed_value, failure):
    outputs = [chunk]
    if chunk.error is not None and self._dead_letters is not None:
      outputs = self._dead_letters.outputs(element, chunk, failure)
    for output in outputs:
      if isinstance(output, beam.pvalue.TaggedOutput):
        yield beam.pvalue.TaggedOutput(
            output.tag, windowed_value.with_value(output.value))
      else:
        yield windowed_value.with_value(self._inputs.with_key(element, output))


class _Request(InFlightRequest):
  """A request of a bundle.

  Args:
    stream: makes its chunks.
    request: what is submitted.
    names: that no other input may have meanwhile.
    emit: the outputs for a chunk.
  """
  __slots__ = ('request', 'names', 'emit')

  def __init__(self, stream, request, names, emit):
    super().__init__(stream)
    self.request = request
    self.names = names
    self.emit = emit
