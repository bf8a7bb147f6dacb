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

"""The seam between Beam and an engine that generates step by step."""

import abc
import dataclasses
import itertools
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Request:
  """One input, as it is submitted to a session.

  Attributes:
    request_id: unique among the requests of a session.
    prompt: the result of the handler's ``prompt_of`` for the example.
    args: the inference_args of RunInference.
    seed: of the sampling, for engines with a seed for each request.
    length: of the example, by which an engine that pads forms its batches;
      None: it forms them in the order of arrival.
  """
  request_id: str
  prompt: Any
  args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  seed: int | None = None
  length: int | None = None


@dataclasses.dataclass(frozen=True)
class Transcript:
  """What has been emitted for a request, from which it can be resumed.

  Attributes:
    text: the text from its start.
    token_ids: all of its tokens; empty if the engine does not report them.
    tokens: the number of tokens, known without token_ids too.
  """
  text: str = ''
  token_ids: tuple[int, ...] = ()
  tokens: int = 0


@dataclasses.dataclass(frozen=True)
class Delta:
  """What a session made for a request since the last poll.

  Times are those of ``time.monotonic``, in seconds, where the tokens are made.

  Attributes:
    text, token_ids, values: as in a Chunk.
    tokens: the number of tokens, or of steps that made the values.
    finish_reason, error: as in a Chunk; set on the last delta of a request.
    prompt_tokens: on the last delta; None if the engine does not report it.
    started: when the oldest token was made.
    made: when the newest token was made.
    retries: the number of calls that were repeated.
    is_lost: whether the error means that the engine or the connection is gone,
      so that the request can be submitted again from its transcript.
  """
  text: str = ''
  token_ids: tuple[int, ...] = ()
  values: np.ndarray | None = None
  tokens: int = 0
  finish_reason: str | None = None
  error: str | None = None
  prompt_tokens: int | None = None
  started: float = 0.0
  made: float = 0.0
  retries: int = 0
  is_lost: bool = False

  @property
  def is_empty(self) -> bool:
    """Whether nothing was made; such a delta shows that the engine works."""
    return not self.tokens and not self.text and self.values is None

  def __add__(self, later: 'Delta') -> 'Delta':
    return Delta.join((self, later))

  @staticmethod
  def join(deltas: Sequence['Delta']) -> 'Delta':
    """Joins deltas in their order, in time linear in their size."""
    if len(deltas) == 1:
      return deltas[0]
    values = [
        np.atleast_1d(delta.values) for delta in deltas
        if delta.values is not None
    ]
    last = deltas[-1]
    return Delta(
        text=''.join([delta.text for delta in deltas]),
        token_ids=tuple(
            itertools.chain.from_iterable(d.token_ids for d in deltas)),
        values=np.concatenate(values) if values else None,
        tokens=sum(delta.tokens for delta in deltas),
        finish_reason=last.finish_reason,
        error=last.error,
        prompt_tokens=next(
            (d.prompt_tokens for d in reversed(deltas) if d.prompt_tokens),
            None),
        started=next((d for d in deltas if not d.is_empty), last).started,
        made=last.made,
        retries=sum(delta.retries for delta in deltas),
        is_lost=last.is_lost)


class DuplicateRequest(ValueError):
  """Another request with this id is in flight."""


class Session(abc.ABC):
  """A loaded model, or a connection to a server, of one process.

  Methods may be called by any thread, and return at once unless they are given
  a timeout.
  """

  # How `submit` resumes from a transcript: 'exact' (from its token ids), 'text'
  # (from its text, tokenized again) or 'none' (it cannot).
  resumes: str = 'none'

  @abc.abstractmethod
  def submit(
      self, request: Request, resume_from: Transcript | None = None) -> None:
    """Starts to generate.

    A request that the model cannot serve ends with a delta that has an error;
    no exception is raised.

    Raises:
      DuplicateRequest: if a request with this id is in flight.
    """

  def submit_batch(self, requests: Sequence[Request], fixed: bool) -> None:
    """Starts to generate for a batch of inputs.

    Args:
      requests: of the batch, none of them submitted before.
      fixed: whether the batch was formed by length, so that an engine that pads
        should run it as it is.
    """
    for request in requests:
      self.submit(request)

  @abc.abstractmethod
  def poll(
      self,
      request_id: str,
      timeout: float = 0.0,
      ready: Callable[[Delta], bool] | None = None) -> Delta | None:
    """Returns what was made since the last poll, as one delta.

    Args:
      request_id: of a request that was submitted.
      timeout: how long to wait for something, in seconds.
      ready: decides by the times and the number of tokens of a delta whether to
        return it now or let it grow. It may be called with a delta that has no
        text, token ids and values.

    Returns:
      None if nothing was made or it is not ready. A delta with a finish reason
      is the last; the session then forgets the request.

    Raises:
      KeyError: if no such request is in flight.
    """

  @abc.abstractmethod
  def knows(self, request_id: str) -> bool:
    """Whether the request is in flight, or its last delta is not polled yet."""

  def last_failure(self, request_id: str) -> str | None:
    """Why the last attempt failed of a request that the session retries.

    An error as in a Chunk; None if no attempt failed since the last token, or
    the reason is unknown.
    """
    return None

  @abc.abstractmethod
  def wait(self, timeout: float) -> bool:
    """Waits until something was made for any request since this thread's last
    wait.

    Returns:
      False if nothing was made within the timeout, which is in seconds.
    """

  @abc.abstractmethod
  def cancel(self, request_id: str) -> None:
    """Stops the engine's work for the request, if it is known, and forgets it.
    """

  @property
  @abc.abstractmethod
  def is_alive(self) -> bool:
    """Whether requests can be submitted."""

  @abc.abstractmethod
  def close(self) -> None:
    """Ends the session. Requests in flight end with an error and is_lost."""
