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

"""Which of the received text can be handed on. Imports nothing from Beam."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from apache_beam.ml.inference.iterative.engines.stop_strings import find_stop
from apache_beam.ml.inference.iterative.engines.stop_strings import may_be_stop

# How JSON writes a character beyond U+FFFF, if a server cuts it in two.
_HIGH_SURROGATE_AT_END = re.compile('[\ud800-\udbff]$')


class Piece(NamedTuple):
  """Text with the tokens that it took.

  Attributes:
    text: whole characters.
    token_ids: where the server tells them.
    tokens: how many.
  """
  text: str = ''
  token_ids: tuple[int, ...] = ()
  tokens: int = 0

  def __add__(self, later: 'Piece') -> 'Piece':
    return Piece(
        self.text + later.text,
        self.token_ids + later.token_ids,
        self.tokens + later.tokens)


class ReceivedText:
  """Holds text back until it is certain, and cuts it at a stop string.

  Held back are a half of a character, token ids whose text has not come, and
  what may be the start of a stop string. So whoever goes on from what was
  handed on, by text or by ids, gets what was held back again.

  Args:
    stop: the text ends before that of these which is complete first.
  """
  def __init__(self, stop: Sequence[str] = ()):
    self._stop = stop
    self._held: list[Piece] = []
    self._half = ''
    # All of them, handed on or not.
    self.tokens = 0
    self.is_stopped = False

  def add(self, text: str, token_ids: Sequence[int], tokens: int) -> Piece:
    """Takes what was received; returns what can be handed on now."""
    text = self._half + text
    half = _HIGH_SURROGATE_AT_END.search(text)
    self._half = half.group() if half else ''
    if half:
      text = text[:-1]
    self.tokens += tokens
    self._held.append(Piece(_joined(text), tuple(token_ids), tokens))
    held = ''.join(piece.text for piece in self._held)
    end = find_stop(held, self._stop)
    if end is not None:
      self.is_stopped = True
      self._half = ''
      return self._take(len(self._held))._replace(text=held[:end])
    certain = len(held) - may_be_stop(held, self._stop)
    count = length = 0
    for number, piece in enumerate(self._held, 1):
      length += len(piece.text)
      is_cut = self._half and number == len(self._held)
      if piece.text and length <= certain and not is_cut:
        count = number
    return self._take(count)

  def end(self) -> Piece:
    """Returns what is left when nothing follows."""
    if self._half:
      self._held.append(Piece('\ufffd'))
      self._half = ''
    return self._take(len(self._held))

  def _take(self, count: int) -> Piece:
    taken, self._held = self._held[:count], self._held[count:]
    return sum(taken, Piece())


def _joined(text: str) -> str:
  """Joins the surrogates of a text; U+FFFD stands for a lone one."""
  if text.isascii():
    return text
  return text.encode('utf-16-le',
                     'surrogatepass').decode('utf-16-le', 'replace')
