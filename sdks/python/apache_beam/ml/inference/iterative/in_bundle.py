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
from apache_beam.ml.inference.iterative.emitted import Emitted
from apache_beam.ml.inference.iterative.flight import Flight
from apache_beam.ml.inference.iterative.inputs import Inputs
from apache_beam.ml.inference.iterative.inputs import emitted_before
from apache_beam.ml.inference.iterative.inputs import request_id_of
from apache_beam.ml.inference.iterative.metrics import IterativeMetrics
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.ml.inference.iterative.result_stream import ResultStream
from apache_beam.utils import windowed_value

__all__ = ['FAILED', 'InBundleDoFn']

# The tag of inputs that failed, where they are asked for.
FAILED = 'failed_inferences'
# How often is looked for what is due by time.
_WAIT_SECS = 0.05


class InBundleDoFn(beam.DoFn):
  """Submits what it gets, and emits chunks as they come, interleaved.

  All of them belong to the bundle: fused steps see each at once, and if the
  bundle fails they see those of the next attempt too.

  Args:
    inputs: how elements become requests.
    options: of iterative inference.
    session_key: the name of the model in the registry of sessions.
    namespace: of the metrics.
    batched: whether an element is a batch.
    dead_letters: whether inputs that fail go to FAILED too.
    clock: of ``time.monotonic``.
  """
  def __init__(
      self,
      inputs: Inputs,
      options: IterativeOptions,
      session_key: str,
      namespace: str,
      *,
      batched: bool = False,
      dead_letters: bool = False,
      clock: Callable[[], float] = time.monotonic):
    self._inputs = inputs
    self._options = options
    self._session_key = session_key
    self._namespace = namespace
    self._batched = batched
    self._dead_letters = dead_letters
    self._clock = clock

  def setup(self):
    # By window and request id.
    self._flights: dict[tuple, Flight] = {}
    handler = self._inputs.handler
    handler.set_environment_vars()
    self._metrics = IterativeMetrics(self._namespace)
    self._lease = registry.acquire(self._session_key, handler.open_session)
    # Loads it, as other models are in setup.
    self._lease.session()

  def teardown(self):
    # Those of a bundle that failed: what ran it is not used again.
    self._cancel()
    self._lease.release()

  def start_bundle(self):
    self._cancel()

  def _cancel(self):
    for flight in self._flights.values():
      flight.cancel()
    self._flights.clear()

  def process(
      self,
      element,
      window=beam.DoFn.WindowParam,
      timestamp=beam.DoFn.TimestampParam):
    def emit_for(one):
      def emit(chunk):
        return self._outputs(one, chunk, timestamp, window)

      return emit

    for one in element if self._batched else (element, ):
      # Chunks come out while there is no place for another input.
      yield from self._drain(self._options.max_in_flight - 1)
      yield from self._admit(one, window, emit_for(one))
    yield from self._advance()

  def finish_bundle(self):
    yield from self._drain(0)

  def _admit(self, element, window, emit):
    request_id, arrived = uuid.uuid4().hex, self._clock()
    request, error, before = None, None, Emitted()
    try:
      request_id = request_id_of(self._options, element)
      before = emitted_before(self._options, element)
      # Another attempt, or the same input in another window, may have the id.
      request = self._inputs.request(uuid.uuid4().hex, element)
    except ValueError as e:
      error = f'invalid: {e}'
    name = (window, request_id)
    if error is None and name in self._flights:
      error = f'duplicate: The request id {request_id!r} is in flight already.'
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
      self._metrics.count('chunks')
      self._metrics.last(chunk)
      yield from emit(chunk)
      return
    flight = Flight(request, stream, self._lease, emit, self._clock)
    flight.submit()
    self._flights[name] = flight
    queued = sum(f.stream.first_made is None for f in self._flights.values())
    self._metrics.submitted(len(self._flights), queued)

  def _drain(self, most):
    """Emits what comes until no more inputs than that are in flight."""
    while len(self._flights) > most:
      emitted = False
      for output in self._advance():
        emitted = True
        yield output
      if not emitted and len(self._flights) > most:
        self._lease.session().wait(_WAIT_SECS)

  def _advance(self):
    for name, flight in list(self._flights.items()):
      chunk = flight.advance(self._metrics)
      if chunk is not None:
        if chunk.is_last:
          del self._flights[name]
        yield from flight.emit(chunk)

  def _outputs(self, element, chunk, timestamp, window):
    def windowed(value):
      return windowed_value.WindowedValue(value, timestamp, (window, ))

    yield windowed(self._inputs.with_key(element, chunk))
    if chunk.error is not None and self._dead_letters:
      # As ParDo.with_exception_handling has it.
      failed = ([element], (RuntimeError, chunk.error, [chunk.error]))
      yield beam.pvalue.TaggedOutput(FAILED, windowed(failed))
