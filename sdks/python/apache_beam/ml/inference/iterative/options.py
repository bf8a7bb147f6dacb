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
  """What ``IterativeOptions.stop_when`` judges.

  Attributes:
    text: all of the text so far.
    token_ids: its tokens, where the engine tells them.
    tokens: how many.
    example: the input.
  """
  text: str
  token_ids: tuple[int, ...]
  tokens: int
  example: Any


def checked_options(options: 'IterativeOptions | None'):
  """What RunInference was given as its options.

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
    mode: ``'in_bundle'``, chunks reach fused steps as they are made and
      steps after a shuffle when the bundle ends, or ``'durable'``, each chunk
      is committed on its own and seen after shuffles at once. Then a
      worker or an engine that is lost costs no token and duplicates none: the
      text resumes from what was committed, by token ids or by text where the
      engine can. Sampling resumes too, with a seed of its own if there is a ``seed``
      among the inference args, else with fresh random numbers.
    request_id_fn: gives each input a str that no other input has, and the same
      one when it is tried again. Without it ids are random: in the mode
      'in_bundle' anew for each attempt.
    emitted_fn: gives what an earlier job has emitted for an input, an
      ``emitted.Emitted``, or None: its text goes on there. Needs request_id_fn,
      with the ids of that job, and an engine that can go on from a transcript.
      Transforms that fold chunks need those of that job too.
    chunk_tokens: the first chunk of a result comes with its first token, later
      ones hold so many tokens,
    chunk_secs: or what was made in so many seconds, if that is less. None: 1 s
      in the mode 'in_bundle', and durable no time, since each chunk is a
      checkpoint: a text takes at most tokens / chunk_tokens + 2, one more for each
      5 s without a chunk if the engine is slow, and some more if it is silent
      for long. After a checkpoint without a chunk the next one is up to twice
      as long, or what is made in 1 s.
    max_in_flight: how many inputs a worker generates for at the same time,
      at most; more wait.
    session_idle_secs: how long a worker keeps the model when it has nothing
      to do. Runners tear steps down that were idle for a minute, and a model may
      take longer to load. 0: the model is closed then, as it is where it had no
      request, and at the end of a batch pipeline on a direct runner.
    request_timeout_secs: an input that takes longer, from its submission, ends
      with the finish reason 'error'. None: no limit.
    stall_timeout_secs: likewise if so long nothing was made for it.
    stop_when: a function of a Progress, evaluated where the model runs, with
      each chunk. If it is true the engine's work for that input is stopped, and
      the chunk is the last, with the finish reason 'cancelled'.
    on_drain: what becomes of the texts when a durable pipeline is drained:
      ``'finish'``, or ``'truncate'``, each ends at once with the finish reason
      'cancelled'.
    max_restriction_bytes: of the text and the token ids that are kept of a
      durable result, compressed, which a runner stores anew for each chunk. A
      longer result ends with the finish reason 'length'.

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
