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
  """One input, as a session takes it.

  Attributes:
    request_id: unique among the requests of a session.
    prompt: what the session's handler makes of an example (``prompt_of``).
    args: RunInference's inference_args.
    seed: for sampling, where the engine takes one per request.
    length: of the example, where an engine that pads is to form batches by
      length; None: in the order of arrival.
  """
  request_id: str
  prompt: Any
  args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  seed: int | None = None
  length: int | None = None


@dataclasses.dataclass(frozen=True)
class Transcript:
  """What has been emitted for a request, to go on from.

  Attributes:
    text: all of it.
    token_ids: all of them; empty where the engine does not tell them.
    tokens: how many, also where token_ids are not known.
  """
  text: str = ''
  token_ids: tuple[int, ...] = ()
  tokens: int = 0


@dataclasses.dataclass(frozen=True)
class Delta:
  """What a session made for a request since it was last asked.

  Times are of ``time.monotonic``, in seconds, taken where tokens are made.

  Attributes:
    text, token_ids, values: as in a Chunk. Text is whole characters.
    tokens: how many; for values, how many steps.
    finish_reason, error: as in a Chunk; nothing follows.
    prompt_tokens: where known, on the last.
    started: when the oldest of it was made.
    made: when the newest of it was made.
    retries: calls that were made again.
    is_lost: with an error, that of an engine or a connection which is gone: the
      request can be submitted again from its transcript.
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
    """Whether nothing was made: it says that the engine is at work."""
    return not self.tokens and not self.text and self.values is None

  def __add__(self, later: 'Delta') -> 'Delta':
    return Delta.join((self, later))

  @staticmethod
  def join(deltas: Sequence['Delta']) -> 'Delta':
    """One delta of several in order, in time linear in what they hold."""
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
  """A request whose id is in flight already."""


class Session(abc.ABC):
  """A loaded model, or a connection to a server, of one process.

  Methods may be called by any thread, and return at once unless they are given
  a timeout.
  """

  # What `submit` makes of a transcript: 'exact' (goes on from its token ids),
  # 'text' (from its text, tokenised anew) or 'none' (cannot).
  resumes: str = 'none'

  @abc.abstractmethod
  def submit(
      self, request: Request, resume_from: Transcript | None = None) -> None:
    """Starts to generate.

    What the model cannot do ends in a delta with an error, not in an exception.

    Raises:
      DuplicateRequest: if a request with this id is in flight.
    """

  def submit_batch(self, requests: Sequence[Request], fixed: bool) -> None:
    """Starts to generate for inputs that were batched.

    Args:
      requests: new ones.
      fixed: whether the batch was chosen by the lengths of its inputs, so that
        an engine that pads runs it as it is.
    """
    for request in requests:
      self.submit(request)

  @abc.abstractmethod
  def poll(
      self,
      request_id: str,
      timeout: float = 0.0,
      ready: Callable[[Delta], bool] | None = None) -> Delta | None:
    """Takes what was made since the last poll, in one piece.

    Args:
      request_id: of a request that was submitted.
      timeout: how long to wait for it, in seconds.
      ready: whether to take it yet, by the times and the number of its tokens;
        it may be asked without the text, the token ids and the values. What is
        not taken is added to.

    Returns:
      None if there is nothing, or it is not ready. After a finish reason the
      request is forgotten.

    Raises:
      KeyError: if no such request is in flight.
    """

  @abc.abstractmethod
  def knows(self, request_id: str) -> bool:
    """Whether the request is in flight, or its last delta not taken yet."""

  def last_failure(self, request_id: str) -> str | None:
    """Why the last attempt of a request failed that the session repeats.

    An error as in a Chunk; None if it did not fail since its last token, or if
    it is not known.
    """
    return None

  @abc.abstractmethod
  def wait(self, timeout: float) -> bool:
    """Waits until something was made for any request since this thread's last
    wait.

    Returns:
      False if nothing was, in so many seconds.
    """

  @abc.abstractmethod
  def cancel(self, request_id: str) -> None:
    """Stops the engine's work for the request and forgets it, if there is any.
    """

  @property
  @abc.abstractmethod
  def is_alive(self) -> bool:
    """Whether requests can be submitted."""

  @abc.abstractmethod
  def close(self) -> None:
    """Ends the session. Requests in flight end with an error that is lost."""
