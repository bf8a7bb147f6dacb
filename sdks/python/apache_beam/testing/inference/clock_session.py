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

"""A fake engine whose tokens come by the clock, for tests and benchmarks.

It computes nothing, so what a pipeline adds to the time of an engine can be
measured for thousands of prompts on a small machine.
"""

import dataclasses
import hashlib
import threading
import time
from collections.abc import Callable

from apache_beam.ml.inference.iterative.handler import SessionModelHandler
from apache_beam.ml.inference.iterative.session import Delta
from apache_beam.ml.inference.iterative.session import DuplicateRequest
from apache_beam.ml.inference.iterative.session import Request
from apache_beam.ml.inference.iterative.session import Session
from apache_beam.ml.inference.iterative.session import Transcript

_VOCABULARY = 50_000


def clock_token_ids(prompt: str, start: int, stop: int) -> tuple[int, ...]:
  """The tokens [start, stop) that a ClockSession makes for a prompt."""
  seed = int.from_bytes(hashlib.sha256(str(prompt).encode()).digest()[:4])
  return tuple(
      (seed + position * 7919) % _VOCABULARY for position in range(start, stop))


def clock_text(token_ids: tuple[int, ...]) -> str:
  """The text of tokens: a word of digits for each."""
  return ''.join([f'{token_id} ' for token_id in token_ids])


class ClockModelHandler(SessionModelHandler):
  """Makes so many tokens for each prompt, at a rate.

  Args:
    tokens: for each prompt.
    rate: tokens a second for each prompt, however many there are.
    kwargs: those of ModelHandler.
  """
  def __init__(self, tokens: int = 64, rate: float = 20.0, **kwargs):
    super().__init__(**kwargs)
    self._tokens = tokens
    self._rate = rate

  def open_session(self):
    return ClockSession(self._tokens, self._rate)

  def token_limit(self, inference_args):
    return self._tokens

  def session_model_id(self):
    return 'clock'


@dataclasses.dataclass
class _Running:
  prompt: str
  begun: float
  # Tokens that were there when it began, and those that were taken.
  before: int
  taken: int
  # When the engine was lost, if it was.
  lost: float | None = None


class ClockSession(Session):
  """The fake engine. Needs no thread: what was made follows from the time.

  Token i that is made for a request, from 0, is there (i + 1) / rate seconds
  after it was submitted. A token depends on the prompt and its position alone,
  so that a text that was resumed can be compared with one that was not.

  Args:
    tokens, rate: as ClockModelHandler has them.
    clock: of ``time.monotonic``, in seconds.
  """
  resumes = 'exact'

  def __init__(
      self,
      tokens: int = 64,
      rate: float = 20.0,
      clock: Callable[[], float] = time.monotonic):
    self._tokens = tokens
    self._rate = rate
    self._clock = clock
    self._lock = threading.Lock()
    self._closed = False
    self._running: dict[str, _Running] = {}
    self._looked = clock()

  def submit(self, request: Request, resume_from: Transcript | None = None):
    before = resume_from.tokens if resume_from else 0
    now = self._clock()
    with self._lock:
      if request.request_id in self._running:
        raise DuplicateRequest(
            f'The request id {request.request_id!r} is in flight already.')
      self._running[request.request_id] = _Running(
          request.prompt, now, before, before, now if self._closed else None)

  def poll(self, request_id, timeout=0.0, ready=None):
    deadline = self._clock() + timeout
    while True:
      with self._lock:
        delta = self._take(request_id, ready)
      left = deadline - self._clock()
      if delta is not None or left <= 0:
        return delta
      time.sleep(min(left, 1 / self._rate))

  def knows(self, request_id):
    return request_id in self._running

  def wait(self, timeout):
    deadline = self._clock() + timeout
    while True:
      now = self._clock()
      with self._lock:
        running = list(self._running.values())
      news = any(self._has_news(one, self._looked, now) for one in running)
      if news or now >= deadline:
        self._looked = now
        return news
      # The soonest of the tokens to come; O(n) when all are silent.
      ahead = min((self._ahead(one, now) for one in running), default=timeout)
      time.sleep(min(deadline - now, max(ahead, 0.001)))

  def cancel(self, request_id):
    with self._lock:
      self._running.pop(request_id, None)

  @property
  def is_alive(self):
    return not self._closed

  def close(self):
    now = self._clock()
    with self._lock:
      self._closed = True
      for one in self._running.values():
        if one.lost is None and not self._is_done(one, now):
          one.lost = now

  def _take(self, request_id, ready):
    one, now = self._running[request_id], self._clock()
    made = self._made(one, now)
    count = made - one.taken
    done = made >= self._tokens
    if not count and not done and one.lost is None:
      return None
    ids = clock_token_ids(one.prompt, one.taken, made)
    steps = one.taken - one.before
    delta = Delta(
        text=clock_text(ids),
        token_ids=ids,
        tokens=count,
        prompt_tokens=len(str(one.prompt)) if done else None,
        started=one.begun + (steps + 1) / self._rate,
        made=one.begun + (steps + count) / self._rate)
    if done:
      delta = dataclasses.replace(delta, finish_reason='length')
    elif one.lost is not None:
      delta = dataclasses.replace(
          delta,
          finish_reason='error',
          error='engine: the session was closed',
          is_lost=True)
    elif ready is not None and not ready(delta):
      return None
    if delta.finish_reason is None:
      one.taken = made
    else:
      del self._running[request_id]
    return delta

  def _made(self, one, now):
    until = now if one.lost is None else min(now, one.lost)
    steps = int((until - one.begun) * self._rate + 1e-6)
    return min(max(one.before + steps, one.before), self._tokens)

  def _is_done(self, one, now):
    return self._made(one, now) >= self._tokens

  def _has_news(self, one, since, now):
    if one.lost is not None:
      return one.lost > since
    return self._made(one, now) > self._made(one, since)

  def _ahead(self, one, now):
    if self._is_done(one, now):
      return float('inf')
    steps = self._made(one, now) - one.before
    return one.begun + (steps + 1) / self._rate - now
