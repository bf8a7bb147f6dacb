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

"""What is to be done next for a text. No Beam here."""

import dataclasses
import hashlib
import random
import time
from collections.abc import Callable
from collections.abc import Hashable
from typing import Any
from typing import NamedTuple

from apache_beam.ml.inference.iterative.chunk import Chunk
from apache_beam.ml.inference.iterative.inputs import Inputs
from apache_beam.ml.inference.iterative.inputs import duplicate_of
from apache_beam.ml.inference.iterative.metrics import IterativeMetrics
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.ml.inference.iterative.registry import Lease
from apache_beam.ml.inference.iterative.result_stream import ResultStream
from apache_beam.ml.inference.iterative.session import Delta
from apache_beam.ml.inference.iterative.texts_in_flight import TextInFlight
from apache_beam.ml.inference.iterative.texts_in_flight import TextKey
from apache_beam.ml.inference.iterative.texts_in_flight import TextsInFlight
from apache_beam.ml.inference.iterative.transcript_restriction import TranscriptRestriction
from apache_beam.ml.inference.iterative.transcript_restriction import new_restriction
from apache_beam.ml.inference.iterative.transcript_restriction import pack
from apache_beam.ml.inference.iterative.transcript_restriction import pack_ids

__all__ = ['DurableSteps', 'Step', 'seed_at']

# How often in a row a text is submitted again whose engine was lost, without a
# token between, and the seconds before: 0.25, 0.5, 1, ..., 35 in all.
_RETRIES = 8
_FIRST_RETRY_SECS = 0.25
_LONGEST_RETRY_SECS = 10.0


class Step(NamedTuple):
  """What comes next for a text.

  Attributes:
    after: the restriction behind it, to be claimed.
    chunk: to be emitted then; None if only the restriction changes.
    delta: that the chunk was made of.
    made_before: when the newest token before it was made.
    text: if it is in flight.
    is_retry: whether its engine was lost.
    cause: what was raised for its input, if anything was.
  """
  after: TranscriptRestriction
  chunk: Chunk | None
  delta: Delta | None = None
  made_before: float | None = None
  text: TextInFlight | None = None
  is_retry: bool = False
  cause: Exception | None = None


class DurableSteps:
  """Makes the steps of texts from their restrictions.

  The session is a cache: a text is submitted again from its restriction where
  the session does not know it, or is at another chunk.

  Args:
    inputs: how elements become requests.
    options: of iterative inference.
    lease: of the session.
    texts: those of the session.
    metrics: where they are counted.
    clock: of ``time.monotonic``.
    wall_clock: of ``time.time``.
    owner: of the transform; others may have texts of the same session.

  Attributes:
    begun: how many texts were submitted.
  """
  def __init__(
      self,
      inputs: Inputs,
      options: IterativeOptions,
      lease: Lease,
      texts: TextsInFlight,
      metrics: IterativeMetrics,
      clock: Callable[[], float] = time.monotonic,
      wall_clock: Callable[[], float] = time.time,
      owner: str = ''):
    self._inputs = inputs
    self._options = options
    self._lease = lease
    self._texts = texts
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
  ) -> TextKey:
    """What names its text in this process."""
    return TextKey(
        self._owner, restriction.request_id, restriction.nonce, windows)

  def next(
      self,
      restriction: TranscriptRestriction,
      element: Any,
      windows: tuple[Hashable, ...] = ()) -> Step | None:
    """The next step, or None if there is nothing to emit yet. Never waits."""
    key = self.key(restriction, windows)
    text = self._texts.get(key)
    if text is not None and text.claim != restriction.claim:
      # Its bundle failed, or another worker went on from there.
      self._texts.drop(text)
      text = None
    if not restriction.claim and text is None and self._texts.has_namesake(key):
      return self._duplicate(restriction, element)
    if restriction.is_cancelled:
      return self._cancelled(restriction, element, text)
    if restriction.error is not None:
      return self._failed(restriction, element, restriction.error)
    if text is None:
      return self._begin(restriction, element, key)
    return text.prepared or self._go_on(restriction, element, text)

  def was_claimed(self, step: Step) -> None:
    """The step will be emitted, and the text goes on from behind it."""
    text, chunk = step.text, step.chunk
    if text is not None:
      text.prepared = None
      text.claim = step.after.claim
      if step.after.is_finished:
        self._metrics.checkpoints(text.checkpoints)
        self._texts.drop(text)
    self._metrics.count('retries', step.is_retry)
    if chunk is not None and step.delta is not None:
      self._metrics.chunk(text.stream, step.delta, chunk, step.made_before)
    elif chunk is not None:
      self._metrics.count('chunks')
      self._metrics.last(chunk)

  def goes(
      self,
      restriction: TranscriptRestriction,
      has_chunk: bool,
      windows: tuple[Hashable, ...] = ()) -> float:
    """What is left of a text goes back to the runner: a checkpoint of it.

    Returns:
      When it should come back, in seconds of clock.
    """
    self._metrics.count('checkpoints')
    self._metrics.count('empty_checkpoints', not has_chunk)
    key = self.key(restriction, windows)
    text = self._texts.get(key)
    if text is None:
      return self._texts.has_no_room(
          key, self._options.max_in_flight, self._limit)
    return self._texts.goes(text, has_chunk)

  def _begin(self, restriction, element, key):
    most = self._options.max_in_flight
    if self._texts.are_full(most):
      return None
    text = TextInFlight(
        key,
        self._stream(restriction, element),
        restriction,
        self._lease.session(),
        self._clock(),
        self._options,
        self._limit)
    if not self._texts.add(text, most):
      return None
    step = self._submit(restriction, element, text)
    if step is not None:
      return step
    self.begun += 1
    self._metrics.submitted(len(self._texts), self._texts.queued)
    return None

  def _submit(self, restriction, element, text):
    """Returns its last step if it cannot be submitted."""
    try:
      request = self._inputs.request(restriction.request_id, element)
      text.submit(
          _with_seed(request, restriction.index), restriction.transcript())
    except ValueError as e:
      self._texts.forget(text)
      return self._failed(restriction, element, f'invalid: {e}', e)
    text.was_submitted(self._clock())
    self._metrics.count('resumed', bool(restriction.tokens))
    return None

  def _go_on(self, restriction, element, text):
    now = self._clock()
    if text.retry_at is not None:
      text.polled_at = now
      if now < text.retry_at:
        return self._overdue(restriction, text)
      text.retry_at = None
      text.session = self._lease.session()
      return self._submit(restriction, element, text)
    delta = text.poll(now)
    if delta is None:
      return self._overdue(restriction, text)
    delta = text.stream.in_time(delta)
    losses = 0 if delta.tokens else restriction.losses
    is_retry = delta.is_lost and self._can_try_again(restriction, text, delta)
    if is_retry:
      text.retry_at = now + min(
          _FIRST_RETRY_SECS * 2**losses, _LONGEST_RETRY_SECS)
      losses += 1
      text.stream.failure = delta.error
      delta = dataclasses.replace(
          delta, finish_reason=None, error=None, is_lost=False)
    elif delta.finish_reason is None and self._is_too_long(restriction, delta):
      delta = dataclasses.replace(delta, finish_reason='length')
    if is_retry and not delta.tokens and not delta.text:
      after = dataclasses.replace(
          restriction, claim=_new_claim(), losses=losses)
      text.prepared = Step(after, None, text=text, is_retry=True)
    else:
      text.prepared = self._take(restriction, text, delta, losses, is_retry)
    return text.prepared

  def _take(self, restriction, text, delta, losses, is_retry):
    stream = text.stream
    made_before, was_queued = stream.last_made, stream.first_made is None
    chunk = stream.take(delta)
    self._texts.took(text, delta, was_queued)
    if self._options.stop_when is None:
      # Nobody asks for them; they take 36 bytes each here, 3 when packed.
      stream.transcript = dataclasses.replace(stream.transcript, token_ids=())
    # A prepared step is never made again, so that ids are added once.
    text.packed_ids += pack_ids(delta.token_ids)
    after = self._after(restriction, text, chunk, losses)
    return Step(after, chunk, delta, made_before, text, is_retry)

  def _after(self, restriction, text, chunk, losses):
    stream = text.stream
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
        pack(stream.transcript.text, text.packed_ids),
        losses,
        restriction.arrived,
        *times,
        is_finished=chunk.is_last)

  def _can_try_again(self, restriction, text, delta):
    if restriction.losses >= _RETRIES and not delta.tokens:
      return False
    made = restriction.tokens + delta.tokens
    return not made or text.session.resumes != 'none'

  def _is_too_long(self, restriction, delta):
    # A token id takes up to 3 bytes in vocabularies of up to 2 million.
    added = len(delta.text) + 3 * len(delta.token_ids)
    most = self._options.max_restriction_bytes
    return len(restriction.packed) + added > most

  def _overdue(self, restriction, text):
    error = text.stream.overdue(text.last_failure())
    if error is None:
      return None
    chunk = text.stream.fail(error)
    text.prepared = Step(_finished(restriction), chunk, text=text)
    return text.prepared

  def _failed(self, restriction, element, error, cause=None):
    chunk = self._stream(restriction, element).fail(error)
    return Step(_finished(restriction), chunk, cause=cause)

  def _duplicate(self, restriction, element):
    # Folds would take a chunk of its request id for one of the other input.
    renamed = new_restriction(
        f'{restriction.request_id}-duplicate-{restriction.nonce:016x}',
        wall_clock=lambda: restriction.arrived)
    error = duplicate_of(restriction.request_id)
    chunk = self._stream(renamed, element).fail(error)
    return Step(_finished(restriction), chunk)

  def _cancelled(self, restriction, element, text):
    chunk = self._stream(restriction,
                         element).take(Delta(finish_reason='cancelled'))
    return Step(_finished(restriction), chunk, text=text)

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


def seed_at(seed: int, index: int) -> int:
  """The seed of a text that goes on at a chunk; that of chunk 0 is seed.

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


def _new_claim():
  return random.getrandbits(63)


def _finished(restriction):
  return dataclasses.replace(
      restriction,
      claim=_new_claim(),
      index=restriction.index + 1,
      is_finished=True)
