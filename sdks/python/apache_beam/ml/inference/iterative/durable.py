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
import time
import uuid
from collections.abc import Callable

import apache_beam as beam
from apache_beam.ml.inference.iterative import registry
from apache_beam.ml.inference.iterative.durable_steps import DurableSteps
from apache_beam.ml.inference.iterative.in_bundle import FAILED
from apache_beam.ml.inference.iterative.inputs import Inputs
from apache_beam.ml.inference.iterative.inputs import emitted_before
from apache_beam.ml.inference.iterative.inputs import request_id_of
from apache_beam.ml.inference.iterative.metrics import IterativeMetrics
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.ml.inference.iterative.texts_in_flight import texts_in_flight
from apache_beam.ml.inference.iterative.transcript_restriction import EXPECTED_TOKENS
from apache_beam.ml.inference.iterative.transcript_restriction import TranscriptRestrictionCoder
from apache_beam.ml.inference.iterative.transcript_restriction import TranscriptRestrictionTracker
from apache_beam.ml.inference.iterative.transcript_restriction import new_restriction
from apache_beam.ml.inference.iterative.transcript_restriction import remaining_tokens
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.utils.timestamp import Duration

__all__ = ['DurableDoFn']

# A chunk that is due so soon is waited for, at most so long in a bundle: it
# would cost a checkpoint to come back for it. The same before any text has
# begun, and after a chunk of the bundle, which waits too.
_NEARLY_SECS = 0.1
_NOTHING_BEGUN_SECS = 0.25
_EMITTED_SECS = 0.03
# Runners that heed the delay of a deferral may come back so much too early.
_EARLY_SECS = 0.005


class _Until(Duration):
  """The time that is left until a moment, whenever it is asked for.

  Runners count the delay of a deferral from the end of its bundle, which may
  process many others before that.
  """
  def __init__(self, at: float, clock: Callable[[], float]):
    # Not of Duration, which has a value.
    self._at = at
    self._clock = clock

  @property
  def micros(self):
    return max(int(1e6 * (self._at - self._clock())), 0)

  def __sub__(self, passed):
    # RestrictionTrackers take off what has passed since the deferral.
    return self


class DurableDoFn(beam.DoFn, RestrictionProvider):
  """Emits a chunk of a text, if one is due, and comes back for the next.

  A chunk and the restriction behind it are committed together, so that none is
  lost or doubled, whatever happens to workers and engines. The session of this
  process keeps generating between the calls.

  Args:
    inputs: how elements become requests.
    options: of iterative inference.
    session_key: the name of the model in the registry of sessions.
    namespace: of the metrics.
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
      dead_letters: bool = False,
      clock: Callable[[], float] = time.monotonic):
    self._inputs = inputs
    self._options = options
    self._session_key = session_key
    self._namespace = namespace
    self._dead_letters = dead_letters
    self._clock = clock
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
    self._lease = registry.acquire(self._session_key, handler.open_session)
    # Loads it, as other models are in setup.
    self._lease.session()
    self._texts = texts_in_flight(self._session_key)
    self._steps = DurableSteps(
        self._inputs,
        self._options,
        self._lease,
        self._texts,
        IterativeMetrics(self._namespace),
        self._clock)

  def teardown(self):
    self._texts = self._steps = None
    self._lease.release()

  def start_bundle(self):
    self._waited = 0.0
    self._has_emitted = False

  def process(self, element, tracker=beam.DoFn.RestrictionParam()):
    restriction = tracker.current_restriction()
    step = self._steps.next(restriction, element)
    if step is None:
      step = self._wait_for(restriction, element)
    if step is None:
      self._defer(tracker, restriction, has_chunk=False)
      return
    if not tracker.try_claim(step.after):
      # The runner has checkpointed it; the step waits for the next call.
      return
    self._steps.was_claimed(step)
    if step.chunk is not None:
      self._has_emitted = True
      yield from self._outputs(element, step.chunk)
    if not step.after.is_finished:
      self._defer(tracker, restriction, has_chunk=step.chunk is not None)

  def _defer(self, tracker, restriction, has_chunk):
    back_at = self._steps.goes(restriction.request_id, has_chunk)
    tracker.defer_remainder(_Until(back_at, self._clock))

  def _wait_for(self, restriction, element):
    """Its step, if a chunk is nearly there or the runner did not heed a delay.

    Texts that were not submitted before do not wait: others have to be too.
    """
    request_id = restriction.request_id
    back_at, now = self._texts.back_at(request_id), self._clock()
    text = self._texts.get(request_id)
    if back_at is None:
      return None
    until = now + self._longest_wait() - self._waited
    if text is not None and now < back_at - _EARLY_SECS:
      until = back_at + _NEARLY_SECS
    if text is None:
      self._sleep(min(back_at, until))
      return self._steps.next(restriction, element)
    step = None
    while step is None:
      due = self._texts.pace.due_at(text, self._clock())
      if due > until:
        break
      self._sleep(due)
      step = self._steps.next(restriction, element)
    return step

  def _sleep(self, until):
    seconds = max(until - self._clock(), 0)
    self._waited += seconds
    time.sleep(seconds)

  def _longest_wait(self):
    if self._has_emitted:
      return _EMITTED_SECS
    if self._texts.queued == len(self._texts):
      return _NOTHING_BEGUN_SECS
    return _NEARLY_SECS

  def _outputs(self, element, chunk):
    yield self._inputs.with_key(element, chunk)
    if chunk.error is not None and self._dead_letters:
      # As ParDo.with_exception_handling has it.
      failed = ([element], (RuntimeError, chunk.error, [chunk.error]))
      yield beam.pvalue.TaggedOutput(FAILED, failed)
