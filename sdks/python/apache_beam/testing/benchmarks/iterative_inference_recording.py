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

"""What the benchmarks of iterative inference record, in every process.

In a module of its own, since a worker imports it by name.
"""

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterable
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from typing import NamedTuple
from weakref import WeakSet

from apache_beam.ml.inference.base import PredictionResult
from apache_beam.ml.inference.iterative.chunk import Chunk
from apache_beam.ml.inference.iterative.handler import SessionModelHandler
from apache_beam.ml.inference.iterative.session import Delta
from apache_beam.ml.inference.iterative.session import Request
from apache_beam.ml.inference.iterative.session import Session

__all__ = [
    'Part',
    'RecordingModelHandler',
    'close_sessions',
    'describe',
    'first_submission',
    'id_of',
    'memory_bytes',
    'poll_all',
    'see_chunk',
    'see_result',
    'warm_up',
]


class Part(NamedTuple):
  """A chunk, or a whole result, as its consumer saw it.

  Attributes:
    index: of the chunk; 0 for a whole result.
    seen: when, in seconds since the epoch.
    tokens: of the whole result, on the last part; else 0.
    is_last, text, error: as in a Chunk.
  """
  index: int
  seen: float
  tokens: int
  is_last: bool
  text: str
  error: str | None


def id_of(prompt: str) -> str:
  """A short name of a prompt, the same in every process."""
  return hashlib.sha256(prompt.encode()).hexdigest()[:12]


def see_chunk(chunk: Chunk) -> tuple[str, Part]:
  _note_memory()
  tokens = 0
  if chunk.is_last:
    tokens = chunk.usage.completion_tokens
  return chunk.request_id, Part(
      chunk.index, time.time(), tokens, chunk.is_last, chunk.text, chunk.error)


def see_result(result: PredictionResult) -> tuple[str, Part]:
  _note_memory()
  made = result.inference
  return id_of(result.example), Part(
      0, time.time(), made.completion_tokens, True, made.text, None)


def describe(element: tuple[str, Iterable[Part]]) -> str:
  """One line of JSON for a prompt, of what a GroupByKey says came for it."""
  request_id, parts = element
  memory = _memory.bytes or memory_bytes()
  return json.dumps([request_id, sorted(parts), os.getpid(), memory])


@dataclasses.dataclass
class _Memory:
  """The most that this process held when output was seen last, and when that
  was."""
  bytes: int = 0
  at: float = 0.0


_memory = _Memory()


def _note_memory():
  """Reads it ten times a second: it must not count what the count itself takes,
  whose input comes at once."""
  now = time.monotonic()
  if now - _memory.at > 0.1:
    _memory.bytes, _memory.at = memory_bytes(), now


def memory_bytes() -> int:
  """The most that this process has ever held in memory."""
  # Not getrusage, whose figure a process takes over from its parent.
  for line in Path('/proc/self/status').read_text().splitlines():
    if line.startswith('VmHWM:'):
      return 1024 * int(line.split()[1])
  raise OSError('/proc/self/status has no VmHWM; this needs Linux.')


def warm_up(session: Session, requests: Iterable[Request]) -> None:
  """Generates for requests, and forgets what came.

  Raises:
    RuntimeError: if the model fails.
  """
  requests = list(requests)
  for request in requests:
    session.submit(request)
  for request in requests:
    whole = Delta()
    while whole.finish_reason is None:
      whole += session.poll(request.request_id, timeout=60) or Delta()
    if whole.error:
      raise RuntimeError(f'The model failed to warm up: {whole.error}')


# Those of this process. One-shot inference never closes its model.
_sessions: WeakSet['_RecordingSession'] = WeakSet()


def close_sessions() -> None:
  """Closes the sessions of this process, which would compete with others."""
  for session in list(_sessions):
    session.close()


class RecordingModelHandler(SessionModelHandler):
  """Another handler, whose model is warm before its first request, which is
  noted.

  Args:
    handler: the other one.
    folder: where each session notes when its first request was submitted, in
      seconds since the epoch, and the memory of its process.
    batch_size: of one-shot inference.
    prompts, args: of the requests that warm the model up.
  """
  def __init__(
      self,
      handler: SessionModelHandler,
      folder: str,
      batch_size: int,
      prompts: Iterable[str],
      args: dict[str, Any]):
    super().__init__(min_batch_size=batch_size, max_batch_size=batch_size)
    self._handler = handler
    self._folder = folder
    self._warm_up = [
        Request(f'warm-up-{i}', handler.prompt_of(prompt), args)
        for i, prompt in enumerate(prompts)
    ]

  def open_session(self):
    session = self._handler.open_session()
    warm_up(session, self._warm_up)
    recording = _RecordingSession(session, self._folder)
    _sessions.add(recording)
    return recording

  def prompt_of(self, example):
    return self._handler.prompt_of(example)

  def token_limit(self, inference_args):
    return self._handler.token_limit(inference_args)

  def session_model_id(self):
    return self._handler.session_model_id()

  def validate_inference_args(self, inference_args):
    self._handler.validate_inference_args(inference_args)


class _RecordingSession(Session):
  def __init__(self, session, folder):
    self._session = session
    self._folder = folder
    self._submitted = False

  @property
  def resumes(self):
    return self._session.resumes

  def submit(self, request, resume_from=None):
    if not self._submitted:
      self._submitted = True
      name = f'submitted-{os.getpid()}-{id(self)}'
      note = json.dumps([time.time(), memory_bytes()])
      Path(self._folder, name).write_text(note)
    self._session.submit(request, resume_from)

  def poll(self, request_id, timeout=0.0, ready=None):
    return self._session.poll(request_id, timeout, ready)

  def knows(self, request_id):
    return self._session.knows(request_id)

  def wait(self, timeout):
    return self._session.wait(timeout)

  def cancel(self, request_id):
    self._session.cancel(request_id)

  @property
  def is_alive(self):
    return self._session.is_alive

  def close(self):
    self._session.close()


def first_submission(folder: str) -> tuple[float, int]:
  """When the first request was submitted, and the memory at that time."""
  notes = [
      json.loads(path.read_text()) for path in Path(folder).glob('submitted-*')
  ]
  return tuple(min(notes))


def poll_all(session: Session,
             requests: Iterable[Request]) -> Iterator[tuple[str, Part]]:
  """A client without Beam: submits all requests, then polls them in turn."""
  pending = {}
  for request in requests:
    session.submit(request)
    pending[request.request_id] = [0, 0]
  while pending:
    news = False
    for request_id, progress in list(pending.items()):
      delta = session.poll(request_id)
      if delta is None:
        continue
      news, done = True, delta.finish_reason is not None
      index, tokens = progress
      tokens += delta.tokens
      yield request_id, Part(
          index,
          time.time(),
          tokens if done else 0,
          done,
          delta.text,
          delta.error)
      progress[:] = index + 1, tokens
      if done:
        del pending[request_id]
    if not news:
      session.wait(1)
