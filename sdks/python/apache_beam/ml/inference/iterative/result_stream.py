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

"""How what a session makes for one input becomes its chunks. No Beam here."""

import dataclasses
from collections.abc import Callable
from typing import Any

from apache_beam.ml.inference.iterative.chunk import Chunk
from apache_beam.ml.inference.iterative.chunk import Timings
from apache_beam.ml.inference.iterative.chunk import Usage
from apache_beam.ml.inference.iterative.options import CHUNK_SECS
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.ml.inference.iterative.options import Progress
from apache_beam.ml.inference.iterative.session import Delta
from apache_beam.ml.inference.iterative.session import Transcript


class ResultStream:
  """Counts, times and ends the chunks of an input.

  Args:
    request_id, example, model_id: of the chunks.
    options: when a chunk is due, and what ends a result early.
    arrived: when the input came, in seconds of clock.
    clock: of ``time.monotonic``.
    transcript: what was emitted by an earlier stream for the same input.
    index: how many chunks that were.
  """
  def __init__(
      self,
      request_id: str,
      example: Any,
      model_id: str | None,
      options: IterativeOptions,
      arrived: float,
      clock: Callable[[], float],
      transcript: Transcript = Transcript(),
      index: int = 0):
    self.request_id = request_id
    self.transcript = transcript
    self.index = index
    self.arrived = arrived
    self.submitted: float | None = None
    self.first_made: float | None = None
    self.last_made: float | None = None
    # Why it was lost, while it is submitted again.
    self.failure: str | None = None
    self._prompt_tokens = None
    self._example = example
    self._model_id = model_id
    self._options = options
    self._clock = clock
    self._last_news = arrived

  def was_submitted(self) -> None:
    self._last_news = self._clock()
    if self.submitted is None:
      self.submitted = self._last_news

  def is_ready(self, delta: Delta, more: int = 0) -> bool:
    """Whether a chunk is due, so many tokens longer; for ``Session.poll``."""
    options = self._options
    self._last_news = max(self._last_news, delta.made)
    if delta.is_empty:
      return False
    if self.index == 0 or delta.tokens >= options.chunk_tokens + more:
      return True
    waited = self._clock() - delta.started
    if options.chunk_secs is not None:
      return waited >= options.chunk_secs
    # Durable, it costs a checkpoint, which has to be worth it.
    least = options.least_tokens(more)
    return delta.tokens >= least and waited >= CHUNK_SECS

  def take(self, delta: Delta) -> Chunk:
    """The next chunk; the last if it has a finish reason.

    If the delta has none, the session still generates.
    """
    before = self.transcript
    self.transcript = Transcript(
        before.text + delta.text,
        before.token_ids + delta.token_ids,
        before.tokens + delta.tokens)
    self._last_news = self._clock()
    if delta.tokens > 0:
      self.failure = None
      self.last_made = delta.made
      if self.first_made is None:
        self.first_made = delta.started
    self._prompt_tokens = delta.prompt_tokens or self._prompt_tokens
    reason, error = delta.finish_reason, delta.error
    if reason is None:
      reason, error = self._judge()
    chunk = Chunk(
        self.request_id, self.index, delta.text, delta.token_ids, delta.values)
    self.index += 1
    return chunk if reason is None else self._finish(chunk, reason, error)

  def fail(self, error: str) -> Chunk:
    """The last chunk, with an error ``'kind: message'``."""
    chunk = Chunk(self.request_id, self.index)
    self.index += 1
    return self._finish(chunk, 'error', error)

  def overdue(self, failure: str | None = None) -> str | None:
    """Why an input without news has to be given up, as an error, or None.

    Args:
      failure: of the last attempt, where its session repeats it.
    """
    limit, error = self._options.stall_timeout_secs, self._out_of_time()
    if limit is not None and self._clock() - self._last_news > limit:
      error = error or f'timeout: nothing was made for {limit} s'
    failure = failure or self.failure
    if error and failure:
      return f'{error}. The last attempt failed: {failure}'
    return error

  def in_time(self, delta: Delta) -> Delta:
    """The news of an input, which are its last if it took too long."""
    error = self._out_of_time()
    if error is None or delta.finish_reason is not None and not delta.is_lost:
      return delta
    return dataclasses.replace(
        delta, finish_reason='error', error=error, is_lost=False)

  def _out_of_time(self):
    limit, begun = self._options.request_timeout_secs, self.submitted
    if None not in (limit, begun) and self._clock() - begun > limit:
      return f'timeout: not done {limit} s after it was submitted'
    return None

  def _judge(self):
    stop_when = self._options.stop_when
    if stop_when is None:
      return None, None
    done = self.transcript
    try:
      stop = bool(
          stop_when(
              Progress(done.text, done.token_ids, done.tokens, self._example)))
    except Exception as e:  # pylint: disable=broad-except
      return 'error', f'stop_when: it raised {e!r}'
    return ('cancelled' if stop else None), None

  def _finish(self, chunk, reason, error):
    submitted = self.submitted or self.arrived
    first, last = self.first_made, self.last_made
    return dataclasses.replace(
        chunk,
        finish_reason=reason,
        error=error,
        usage=Usage(self._prompt_tokens, self.transcript.tokens),
        timings=Timings(
            queued=submitted - self.arrived,
            first=None if first is None else first - submitted,
            total=0.0 if last is None else last - submitted),
        model_id=self._model_id,
        example=self._example)
