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

"""What the live page shows: texts that grow, for each prompt in two ways."""

import dataclasses
import time
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

__all__ = ['Board', 'ITERATIVE', 'ONE_SHOT', 'WAYS']

ONE_SHOT, ITERATIVE = WAYS = ('one_shot', 'iterative')

# What a message may hold, so that no sender fills the memory.
_MOST_CHARACTERS = 100_000
_MOST_PIECES = 10_000
_MOST_TOKENS = 1_000_000
_MOST_REASON = 20
_MOST_ERROR = 2_000


@dataclasses.dataclass
class _Lane:
  """A text of a prompt, made in one of the ways.

  Pieces may come in any order and more than once, as they do after a shuffle
  whose sender is tried again; the text is made of those without a gap.
  """
  started: float | None = None
  first: float | None = None
  ended: float | None = None
  text: str = ''
  tokens: int = 0
  pieces: int = 0
  finish_reason: str | None = None
  error: str | None = None
  # Those that came too early, by index.
  early: dict[int, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
  # Of text and of early, which are bounded together.
  characters: int = 0


class Board:
  """The state of the page, changed by one message at a time.

  Times are seconds of the clock. A message is a dict as JSON has it, with
  'prompt', an index, and 'way', one of WAYS. With 'start': true it says that
  the model was handed the prompt. Otherwise it is a piece of the text: 'index'
  from 0, 'text', 'tokens', and on the last 'finish_reason' and 'error', which
  are null before.

  Args:
    prompts: as the page shows them.
    about: what the page says of the run; strings by name.
    token_limit: of each text, the length of the bar.
    clock: of ``time.monotonic``.
  """
  def __init__(
      self,
      prompts: Sequence[str],
      about: Mapping[str, str],
      token_limit: int,
      clock: Callable[[], float] = time.monotonic):
    self._prompts = list(prompts)
    self._about = dict(about)
    self._token_limit = token_limit
    self._clock = clock
    self._status = 'waiting'
    self._lanes = {(prompt, way): _Lane()
                   for prompt in range(len(prompts))
                   for way in WAYS}

  def snapshot(self) -> dict[str, Any]:
    """All of it, as a page that has just been opened needs it."""
    return {
        'about': self._about,
        'prompts': self._prompts,
        'token_limit': self._token_limit,
        'status': self._status,
        'lanes': [
            self._view(key, lane.text) for key, lane in self._lanes.items()
        ],
    }

  def set_status(self, status: str) -> dict[str, Any]:
    """Takes 'waiting', 'running', 'done' or 'failed'; returns the change."""
    self._status = status
    return {'status': status}

  def apply(self, message: Any) -> dict[str, Any] | None:
    """Takes a message, and returns what changed, None if nothing did.

    A change is a lane as the snapshot has it, but 'added' is only the text that
    came to what was there before.

    Raises:
      ValueError: if it is no message, or too large; nothing was changed.
    """
    if not isinstance(message, dict):
      raise ValueError(f'a message is an object, not {message!r:.80}')
    prompt = _number(message, 'prompt', len(self._prompts) - 1)
    way = message.get('way')
    if way not in WAYS:
      raise ValueError(f'way={way!r:.80}: must be one of {", ".join(WAYS)}')
    key = prompt, way
    lane = self._lanes[key]
    if message.get('start') is True:
      if lane.started is not None:
        return None
      lane.started = self._clock()
      return self._view(key, '')
    index = _number(message, 'index', _MOST_PIECES - 1)
    piece = _checked_piece(message)
    if index < lane.pieces or index in lane.early or lane.finish_reason:
      return None
    if lane.characters + len(piece['text']) > _MOST_CHARACTERS:
      raise ValueError(f'a text is longer than {_MOST_CHARACTERS} characters')
    lane.characters += len(piece['text'])
    lane.early[index] = piece
    before = len(lane.text)
    if not self._append(lane):
      return None
    return self._view(key, lane.text[before:])

  def _append(self, lane):
    """Moves the pieces that are next to the text; whether there were any."""
    now, before = self._clock(), lane.pieces
    while (piece := lane.early.pop(lane.pieces, None)) is not None:
      lane.pieces += 1
      lane.text += piece['text']
      lane.tokens += piece['tokens']
      if lane.started is None:
        lane.started = now
      if lane.first is None and (piece['tokens'] or piece['text']):
        lane.first = now
      if piece['finish_reason'] is not None:
        lane.ended = now
        lane.finish_reason, lane.error = piece['finish_reason'], piece['error']
        lane.early.clear()
    return lane.pieces > before

  def _view(self, key, added):
    lane, (prompt, way) = self._lanes[key], key
    started = lane.started

    def since_start(then):
      return None if started is None or then is None else then - started

    return {
        'prompt': prompt,
        'way': way,
        'elapsed': since_start(lane.ended or self._clock()),
        'first': since_start(lane.first),
        'tokens': lane.tokens,
        'pieces': lane.pieces,
        'finish_reason': lane.finish_reason,
        'error': lane.error,
        'added': added,
    }


def _number(message, name, most):
  value = message.get(name)
  if type(value) is not int or not 0 <= value <= most:
    raise ValueError(f'{name}={value!r:.80}: must be an int from 0 to {most}')
  return value


def _string(message, name, most):
  value = message.get(name)
  if not isinstance(value, str) or len(value) > most:
    raise ValueError(
        f'{name}={value!r:.80}: must be a string of at most {most} characters')
  return value


def _checked_piece(message):
  piece = {
      'text': _string(message, 'text', _MOST_CHARACTERS),
      'tokens': _number(message, 'tokens', _MOST_TOKENS),
      'finish_reason': None,
      'error': None,
  }
  for name, most in (('finish_reason', _MOST_REASON), ('error', _MOST_ERROR)):
    if message.get(name) is not None:
      piece[name] = _string(message, name, most)
  return piece
