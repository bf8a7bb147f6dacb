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

"""What one call of an OpenAI-compatible server has brought so far."""

import dataclasses
from collections.abc import Sequence

from apache_beam.ml.inference.iterative.engines.openai.failures import CallFailed
from apache_beam.ml.inference.iterative.engines.openai.protocol import Event
from apache_beam.ml.inference.iterative.engines.openai.received_text import Piece
from apache_beam.ml.inference.iterative.engines.openai.received_text import ReceivedText
from apache_beam.ml.inference.iterative.session import Delta


class Answer:
  """Makes text, counts and an end of the events of a stream.

  Tokens are counted by their ids, else by the usage of each event, else by what
  an event has at least. In the end the server's usage counts.

  Args:
    stop: the text ends before that of these which is complete first.
    gives_reasons: whether the server gives a reason for each end, so that the
      mark at the end of a stream does not do.

  Attributes:
    has_choice: whether there was anything of a completion.
    has_reason: whether the server gave a reason for the end.
    thinks: whether there were thoughts, which are in no text.
  """
  def __init__(self, stop: Sequence[str] = (), gives_reasons: bool = False):
    self._text = ReceivedText(stop)
    self._gives_reasons = gives_reasons
    self._finish: str | None = None
    self._error: CallFailed | None = None
    self._refusal = ''
    self._is_done = self.has_choice = False
    # Events without text since the last with one.
    self._blanks = 0
    self._prompt_tokens: int | None = None
    self._completion_tokens: int | None = None
    self.thinks = False
    self._received: list[str] = []
    # Whether any of it was that of a delta, not of a message.
    self._has_deltas = False

  @property
  def is_stopped(self) -> bool:
    """Whether a stop string has ended the text."""
    return self._text.is_stopped

  @property
  def has_text(self) -> bool:
    return bool(self._received)

  @property
  def has_reason(self) -> bool:
    return self._finish is not None

  @property
  def is_empty(self) -> bool:
    """Whether nothing was made, not even the token that ends a text."""
    return not self._text.tokens and not self._completion_tokens

  @property
  def is_complete(self) -> bool:
    """Whether all of the text is there."""
    return self.is_stopped or self.has_reason or (
        self._is_done and self.has_choice and not self._gives_reasons)

  def add(self, event: Event, text: str) -> Piece:
    """Takes an event, and the text to use for it; returns what is certain."""
    self.thinks |= event.thinks
    self.has_choice |= event.has_choice
    if text:
      self._has_deltas |= not event.is_message
      self._received.append(text)
    self._is_done |= event.is_done
    self._gives_reasons &= not event.is_whole
    self._refusal += event.refusal
    if event.finish_reason:
      self._finish, self._error = event.finish_reason, event.error
    self._prompt_tokens = event.prompt_tokens or self._prompt_tokens
    # Some servers send zeros until they know better.
    self._completion_tokens = (
        event.completion_tokens or self._completion_tokens)
    if not event.has_choice:
      return Piece()
    return self._text.add(text, event.token_ids, self._tokens_of(event))

  def without_repeated(self, event: Event) -> Event:
    """An event without the text before, where it is that of the whole answer.

    MiniMax ends a stream so. Without deltas, messages may be pieces of a text.
    """
    # First, as joining the text at each event takes quadratic time.
    if not (event.is_message and (self._has_deltas or event.finish_reason)):
      return event
    received = ''.join(self._received)
    if not received or not event.text.startswith(received):
      return event
    text = event.text[len(received):]
    return dataclasses.replace(
        event, text=text, token_ids=(), tokens=len(text.split()))

  def rest(self) -> Piece:
    """What is certain when nothing follows."""
    return self._text.end()

  def last(self, before: int, limit: int | None) -> Delta:
    """The end of the text, with what was not handed on.

    Args:
      before: tokens of the transcript that the call went on from.
      limit: of all tokens.

    Raises:
      CallFailed: if it is not complete, or no text.
    """
    if not self.is_complete:
      missing = 'finish reason' if self.has_choice else 'completion'
      if self.has_choice and self._is_done:
        missing += ', as llama-cpp-python ends it when another call comes'
      raise CallFailed(
          'truncated', f'the stream ended without a {missing}', True)
    counted, rest = self._text.tokens, self.rest()
    made = self._completion_tokens or counted
    finish = 'stop' if self.is_stopped else self._finish
    if finish is None:
      finish = 'stop' if limit is None or before + made < limit else 'length'
    error = self._error if finish == 'error' else None
    if self._refusal:
      finish = 'error'
      error = CallFailed('refused', f'the model says: {self._refusal}')
    return Delta(
        rest.text,
        rest.token_ids,
        tokens=rest.tokens + made - counted,
        finish_reason=finish,
        error=error and str(error),
        prompt_tokens=self._prompt_tokens and
        max(self._prompt_tokens - before, 0) or None)

  def _tokens_of(self, event: Event) -> int:
    if event.token_ids:
      return event.tokens
    if event.completion_tokens:
      return event.completion_tokens - self._text.tokens
    if not event.text:
      self._blanks += 1
      return 0
    # Before a character of several bytes, they may have had the others.
    size = len(event.text[0].encode('utf-8', 'surrogatepass'))
    parts, self._blanks = min(self._blanks, size - 1), 0
    return event.tokens + parts
