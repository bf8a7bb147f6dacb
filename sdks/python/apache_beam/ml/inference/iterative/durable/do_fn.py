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

"""Commits each chunk on its own: a splittable DoFn."""

import dataclasses
import random
import time
import uuid
from collections.abc import Callable

import apache_beam as beam
from apache_beam.ml.inference.iterative import registry
from apache_beam.ml.inference.iterative.dead_letters import DeadLetters
from apache_beam.ml.inference.iterative.durable.requests import durable_requests
from apache_beam.ml.inference.iterative.durable.restriction import EXPECTED_TOKENS
from apache_beam.ml.inference.iterative.durable.restriction import TranscriptRestrictionCoder
from apache_beam.ml.inference.iterative.durable.restriction import TranscriptRestrictionTracker
from apache_beam.ml.inference.iterative.durable.restriction import new_restriction
from apache_beam.ml.inference.iterative.durable.restriction import remaining_tokens
from apache_beam.ml.inference.iterative.durable.transitions import Transitions
from apache_beam.ml.inference.iterative.inputs import Inputs
from apache_beam.ml.inference.iterative.inputs import emitted_before
from apache_beam.ml.inference.iterative.inputs import request_id_of
from apache_beam.ml.inference.iterative.metrics import IterativeMetrics
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.utils.timestamp import Duration

# A chunk that is due so soon is waited for, at most so long in a bundle: a poll
# later would cost a checkpoint. The same before any request has a token, and
# after a chunk of the bundle, whose commit is delayed by the wait.
_NEARLY_SECS = 0.1
_NOTHING_BEGUN_SECS = 0.25
_EMITTED_SECS = 0.03


class DurableDoFn(beam.DoFn, RestrictionProvider):
  """Emits a chunk of a request, if one is due, and defers the rest.

  A chunk and the restriction after it are committed together, so that no chunk
  is lost or duplicated, whatever happens to workers and engines. The session of
  this process keeps generating between the calls.

  Args:
    inputs: how elements become requests.
    options: of iterative inference.
    session_key: the name of the model in the registry of sessions.
    namespace: of the metrics.
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
      dead_letters: DeadLetters | None = None,
      clock: Callable[[], float] = time.monotonic):
    self._inputs = inputs
    self._options = options
    self._session_key = session_key
    self._namespace = namespace
    self._dead_letters = dead_letters
    self._clock = clock
    # The same in all processes and threads of a transform.
    self._owner = f'{random.getrandbits(64):016x}'
    self._lease = None
    limit = inputs.handler.token_limit(inputs.inference_args)
    self._expected_tokens = limit or EXPECTED_TOKENS

  # The restrictions.

  def initial_restriction(self, element):
    # Of an input that has no name: any will do for its error.
    request_id = uuid.uuid4().hex
    try:
      request_id = request_id_of(self._options, element)
      before = emitted_before(self._options, element)
    except ValueError as e:
      return new_restriction(request_id, error=f'invalid: {e}')
    return new_restriction(request_id, before=before)

  def create_tracker(self, restriction):
    return TranscriptRestrictionTracker(restriction, self._expected_tokens)

  def restriction_coder(self):
    return TranscriptRestrictionCoder()

  def restriction_size(self, element, restriction):
    return remaining_tokens(restriction, self._expected_tokens)

  def truncate(self, element, restriction):
    if self._options.on_drain == 'truncate':
      return dataclasses.replace(restriction, is_cancelled=True)
    return restriction

  # The chunks.

  def setup(self):
    handler = self._inputs.handler
    handler.set_environment_vars()
    # Loads the model, as other models are in setup.
    self._lease = registry.acquire_open(
        self._session_key,
        handler.open_session,
        self._options.session_idle_secs)
    self._requests = durable_requests(self._lease, self._clock)
    self._transitions = Transitions(
        self._inputs,
        self._options,
        self._lease,
        self._requests,
        IterativeMetrics(self._namespace),
        self._clock,
        owner=self._owner)

  def teardown(self):
    if self._lease is not None:
      self._lease.release()

  def start_bundle(self):
    self._waited = 0.0
    self._has_emitted = False

  def process(
      self,
      element,
      windowed_value=beam.DoFn.WindowedValueParam,
      tracker=beam.DoFn.RestrictionParam()):
    restriction = tracker.current_restriction()
    windows = tuple(windowed_value.windows)
    request = self._requests.get(self._transitions.key(restriction, windows))
    if request is not None:
      self._requests.resumed(request)
    transition = self._transitions.next(restriction, element, windows)
    if transition is None:
      transition = self._wait_for(restriction, element, windows)
    if transition is None:
      self._defer(tracker, restriction, windows, has_chunk=False)
      return
    if not tracker.try_claim(transition.after):
      # The runner has checkpointed it; the transition waits for the next call.
      return
    self._transitions.was_claimed(transition)
    if transition.chunk is not None:
      self._has_emitted = True
      yield from self._outputs(element, restriction, transition)
    if not transition.after.is_finished:
      self._defer(
          tracker, restriction, windows, has_chunk=transition.chunk is not None)

  def _defer(self, tracker, restriction, windows, has_chunk):
    poll_at = self._transitions.defer(restriction, has_chunk, windows)
    key = self._transitions.key(restriction, windows)
    delay = self._requests.delay(key, poll_at)
    tracker.defer_remainder(Duration.of(delay))

  def _wait_for(self, restriction, element, windows):
    """Its transition, if a chunk is nearly there or the runner took no delay.

    Requests that were just submitted do not wait: others must be submitted too.
    """
    key = self._transitions.key(restriction, windows)
    poll_at, request = self._requests.poll_at(key), self._requests.get(key)
    if poll_at is None:
      return None
    now = self._clock()
    until = now + self._longest_wait() - self._waited
    if request is None:
      self._sleep(min(poll_at, until))
      return self._transitions.next(restriction, element, windows)
    delays = self._requests.delays
    if delays.are_ignored:
      # It would resume at once, and with it all others.
      until = max(until, poll_at + _NEARLY_SECS)
    transition = None
    while transition is None:
      due = self._requests.speed.due_at(request, self._clock())
      if due > until:
        break
      self._sleep(due)
      transition = self._transitions.next(restriction, element, windows)
    if transition is None and delays.are_ignored:
      self._sleep(poll_at)
      transition = self._transitions.next(restriction, element, windows)
    if transition is None and delays.are_cut:
      # It may resume at once, as others that are due sooner.
      self._sleep(min(until, max(self._requests.next_due(), now)))
      transition = self._transitions.next(restriction, element, windows)
    return transition

  def _sleep(self, until):
    seconds = max(until - self._clock(), 0)
    self._waited += seconds
    time.sleep(seconds)

  def _longest_wait(self):
    if self._has_emitted:
      return _EMITTED_SECS
    if self._requests.queued == len(self._requests):
      return _NOTHING_BEGUN_SECS
    return _NEARLY_SECS

  def _outputs(self, element, restriction, transition):
    chunks = [transition.chunk]
    if transition.chunk.error is not None and self._dead_letters is not None:
      cause = transition.cause or self._cause(element, restriction)
      chunks = self._dead_letters.outputs(element, transition.chunk, cause)
    for chunk in chunks:
      if isinstance(chunk, beam.pvalue.TaggedOutput):
        yield chunk
      else:
        yield self._inputs.with_key(element, chunk)

  def _cause(self, element, restriction):
    """What was raised when the restriction was made, maybe elsewhere."""
    if restriction.error is not None:
      try:
        request_id_of(self._options, element)
        emitted_before(self._options, element)
      except ValueError as e:
        return e
    return None
