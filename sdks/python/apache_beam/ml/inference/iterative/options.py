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

"""How RunInference emits partial results."""

import dataclasses
from collections.abc import Callable
from typing import Any
from typing import Literal

from apache_beam.ml.inference.iterative.emitted import Emitted

# How long tokens wait for others where nobody says it.
CHUNK_SECS = 1.0


@dataclasses.dataclass(frozen=True)
class Progress:
  """The result of an input up to now, for ``IterativeOptions.stop_when``.

  Attributes:
    text: the text from its start.
    token_ids: its tokens; empty if the engine does not report them.
    tokens: the number of tokens.
    example: the input.
  """
  text: str
  token_ids: tuple[int, ...]
  tokens: int
  example: Any


def checked_options(options: 'IterativeOptions | None'):
  """Returns the options of RunInference.

  Raises:
    TypeError: if they are something else.
  """
  if options is None or isinstance(options, IterativeOptions):
    return options
  raise TypeError(
      f'RunInference(iterative={options!r}): must be options, such as '
      'iterative=IterativeOptions(), or be left out.')


@dataclasses.dataclass(frozen=True)
class IterativeOptions:
  """Options of iterative inference. Needs --experiments=iterative_inference.

  Args:
    mode: when steps see a chunk, and what survives a failure. ``'in_bundle'``:
      fused steps see a chunk when it is made, steps after a shuffle when the
      bundle ends; a bundle that fails starts its texts again. ``'durable'``:
      each chunk is committed by itself and steps after a shuffle see it at
      once; when a worker or an engine is lost, no token is lost or duplicated,
      as the text resumes from what was committed, by token ids or by text if
      the engine can. Sampling resumes with a seed derived from the ``seed`` of
      the inference args, or without one with fresh random numbers.
    request_id_fn: returns a str that is unique to the input and the same when
      the input is retried. None: ids are random, and in the mode 'in_bundle'
      they change with each attempt.
    emitted_fn: returns the ``Emitted`` of an input, which is what an earlier
      job has emitted for it, or None. The text resumes there. Needs the
      request_id_fn of that job and an engine that can resume. Transforms that
      fold chunks need the chunks of that job too.
    chunk_tokens: the number of tokens of a chunk. The first chunk has one.
    chunk_secs: a chunk is emitted earlier if it took this many seconds. None:
      1 s in the mode 'in_bundle', no limit in 'durable', where each chunk is a
      checkpoint. A durable text takes at most tokens / chunk_tokens + 2
      checkpoints, one more for each 5 s without a chunk if the engine is slow,
      and a few more if it is silent for long. After a checkpoint without a
      chunk the next chunk is larger, at most doubled, or has what is made in
      1 s.
    max_in_flight: the maximum number of inputs that a worker generates for at
      the same time. Others are queued.
    request_timeout_secs: an input that takes longer than this, counted from its
      submission, ends with the finish reason 'error'. None: no limit.
    session_idle_secs: how long an idle worker keeps the model loaded. (Runners
      tear down steps that were idle for a minute, and a model may take longer
      to load.) 0: the model is closed when its steps are torn down. So it is in
      any case if it had no request, and at the end of a batch pipeline on a
      direct runner.
    stall_timeout_secs: an input for which nothing is made for this long ends
      with the finish reason 'error'. None: no limit.
    stop_when: a function of a ``Progress``, called where the model runs, with
      each chunk. When it returns True, the engine stops working for that input
      and the chunk is its last, with the finish reason 'cancelled'.
    on_drain: what happens to unfinished texts when a durable pipeline is
      drained. ``'finish'``: they are generated to their end. ``'truncate'``:
      they end at once, with the finish reason 'cancelled'.
    max_restriction_bytes: the maximum size of a durable result's text and token
      ids, compressed, which the runner stores with each chunk. A longer result
      ends with the finish reason 'length'.

  Raises:
    TypeError: if a value has the wrong type.
    ValueError: if a value is out of range.
  """
  mode: Literal['in_bundle', 'durable'] = 'in_bundle'
  request_id_fn: Callable[[Any], str] | None = None
  emitted_fn: Callable[[Any], Emitted | None] | None = None
  # 8 tokens a chunk: durable, a seventh of the bundles that one token a chunk
  # takes (143 and 954; 16 prompts of 64 tokens on Prism).
  chunk_tokens: int = 8
  chunk_secs: float | None = None
  max_in_flight: int = 256
  request_timeout_secs: float | None = None
  session_idle_secs: float = 600.0
  stall_timeout_secs: float | None = 300.0
  stop_when: Callable[[Progress], bool] | None = None
  on_drain: Literal['finish', 'truncate'] = 'finish'
  # About 100,000 tokens of English.
  max_restriction_bytes: int = 1 << 18

  def least_tokens(self, more: int) -> int:
    """Of a chunk that is to be so much longer, where nobody says how long it
    may take."""
    if self.mode != 'durable':
      return 0
    return self.chunk_tokens + min(more, self.chunk_tokens)

  def __post_init__(self):
    idle = self.session_idle_secs
    if not isinstance(idle, (int, float)) or isinstance(idle, bool):
      raise TypeError(
          f'IterativeOptions(session_idle_secs={idle!r}): must be a number of '
          'seconds.')
    if not idle >= 0:
      raise ValueError(
          f'IterativeOptions(session_idle_secs={idle!r}): must not be negative.'
      )
    if self.mode not in ('in_bundle', 'durable'):
      raise ValueError(
          f"IterativeOptions(mode={self.mode!r}): must be 'in_bundle' or "
          "'durable'.")
    if self.on_drain not in ('finish', 'truncate'):
      raise ValueError(
          f"IterativeOptions(on_drain={self.on_drain!r}): must be 'finish' or "
          "'truncate'.")
    for name in ('chunk_tokens', 'max_in_flight', 'max_restriction_bytes'):
      value = getattr(self, name)
      if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f'IterativeOptions({name}={value!r}): must be an int.')
      if value <= 0:
        raise ValueError(
            f'IterativeOptions({name}={value!r}): must be positive.')
    for name in ('chunk_secs', 'request_timeout_secs', 'stall_timeout_secs'):
      value = getattr(self, name)
      if value is None:
        continue
      if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(
            f'IterativeOptions({name}={value!r}): must be a number of seconds.')
      if not value > 0:
        raise ValueError(
            f'IterativeOptions({name}={value!r}): must be positive.')
    stall = self.stall_timeout_secs
    waits = self.chunk_secs or CHUNK_SECS
    if stall is not None and stall <= waits:
      raise ValueError(
          f'IterativeOptions(stall_timeout_secs={stall!r}): must be more than '
          f'chunk_secs, {waits!r}, for which tokens may wait.')
    for name in ('request_id_fn', 'emitted_fn', 'stop_when'):
      value = getattr(self, name)
      if value is not None and not callable(value):
        raise TypeError(
            f'IterativeOptions({name}={value!r}): must be a function.')
    if self.emitted_fn is not None and self.request_id_fn is None:
      raise ValueError(
          'IterativeOptions(emitted_fn): needs request_id_fn, so that the ids '
          'are those of the job that emitted.')
    if self.mode != 'durable':
      for name in ('on_drain', 'max_restriction_bytes'):
        if getattr(self, name) != type(self).__dataclass_fields__[name].default:
          raise ValueError(
              f"IterativeOptions({name}): needs mode='durable'. Leave it out.")
