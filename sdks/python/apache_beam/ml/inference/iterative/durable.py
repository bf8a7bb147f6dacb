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
from apache_beam.ml.inference.iterative.transcript_restriction import TranscriptRestrictionCoder
from apache_beam.ml.inference.iterative.transcript_restriction import TranscriptRestrictionTracker
from apache_beam.ml.inference.iterative.transcript_restriction import expected_tokens
from apache_beam.ml.inference.iterative.transcript_restriction import new_restriction
from apache_beam.ml.inference.iterative.transcript_restriction import remaining_tokens
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.utils.timestamp import Duration

__all__ = ['DurableDoFn']

# Until a runner comes back, where it heeds that, as Prism does and the
# FnApiRunner does not. Longer ones, by the pace of each text, save half of the
# polls and notice the end of a text too late: 1.1 times the time of the clock
# for 200 prompts instead of 1.03.
_POLL_AFTER = Duration(micros=50_000)
# How long a worker waits once every text was asked for, at least, at most and
# for each second of the bundle: half of the time where some chunks were due;
# where none was until one is, and else so long that polling 200 texts costs less
# than 5 % of a core, with what Beam adds to the time of the bundle. A pace of
# 0.02 s takes the interpreter from an engine in the process too often: SmolLM2
# was done after 1.11 times one-shot instead of 1.00 (16 texts, 2 cores).
_PACE_SECS = (0.08, 0.1)
_PACE_PER_BUNDLE = 1
_WAIT_SECS = (0.5, 2.0)
_WAIT_PER_BUNDLE = 100


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
    self._expected_tokens = expected_tokens(inputs.inference_args)

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
    self._began = self._clock()
    self._begun_before = self._steps.begun
    self._idle = []
    self._has_emitted = False
    self._is_urgent = False
    self._came_round = False
    self._has_no_room = False

  def process(self, element, tracker=beam.DoFn.RestrictionParam()):
    restriction = tracker.current_restriction()
    step = self._steps.next(restriction, element)
    if step is None:
      self._nothing_due(restriction.request_id)
      tracker.defer_remainder(_POLL_AFTER)
      return
    if not tracker.try_claim(step.after):
      # The runner has checkpointed it; the step waits for the next call.
      return
    self._steps.was_claimed(step)
    if step.chunk is not None:
      self._has_emitted = True
      # Somebody waits for the first and for the last.
      self._is_urgent |= not step.chunk.index or step.chunk.is_last
      yield from self._outputs(element, step.chunk)
    if not step.after.is_finished:
      tracker.defer_remainder(_POLL_AFTER)

  def finish_bundle(self):
    if not self._came_round:
      # Others have not been asked for since the last wait.
      return
    if self._is_urgent or self._steps.begun > self._begun_before:
      return
    took = self._clock() - self._began
    if self._has_emitted:
      self._texts.pause(_within(_PACE_SECS, _PACE_PER_BUNDLE * took))
      return
    room = self._options.max_in_flight if self._has_no_room else None
    self._texts.wait(
        self._idle, _within(_WAIT_SECS, _WAIT_PER_BUNDLE * took), room)

  def _nothing_due(self, request_id):
    text = self._texts.get(request_id)
    if text is None:
      self._has_no_room = True
    else:
      self._idle.append(text)
    if self._texts.was_idle(request_id):
      self._came_round = True

  def _outputs(self, element, chunk):
    yield self._inputs.with_key(element, chunk)
    if chunk.error is not None and self._dead_letters:
      # As ParDo.with_exception_handling has it.
      failed = ([element], (RuntimeError, chunk.error, [chunk.error]))
      yield beam.pvalue.TaggedOutput(FAILED, failed)


def _within(bounds, value):
  least, most = bounds
  return min(max(value, least), most)
