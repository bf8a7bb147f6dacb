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

"""The text of token ids that come step by step, in whole characters."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence

from apache_beam.ml.inference.iterative.engines.stop_strings import find_stop
from apache_beam.ml.inference.iterative.engines.stop_strings import may_be_stop

# What decoders put in the place of bytes that are no character (yet).
_REPLACEMENT = '\ufffd'
# A character of UTF-8 lacks up to 3 bytes, and some decoders put a replacement
# for each of its bytes and of those before it, also of blanks. More than that
# are no text.
_MAX_INCOMPLETE = 16


class IncrementalText:
  """Turns token ids into text as they come.

  The pieces that ``add`` and ``finish`` return make up what ``decode`` says of
  all ids at once, up to the stop string that is complete first. A piece never
  ends amid a character, nor amid what may become a stop string.

  Decoding costs time in proportion to the tokens of the last few characters,
  not to all of them.

  Args:
    decode: of a tokenizer: text of a list of ids. A byte that is not (yet)
      part of a character must come out as U+FFFD.
    stop: strings before which the text ends; none of them empty.
    token_ids: those of an earlier run, to go on from.
    text: what that run has handed out of their text.
  """
  def __init__(
      self,
      decode: Callable[[list[int]], str],
      stop: Sequence[str] = (),
      token_ids: Iterable[int] = (),
      text: str = ''):
    self._decode = decode
    self._stop = tuple(stop)
    # Ids whose text was taken, up to a whole character. Decoders strip the
    # blank of a first word, so that words need the one before.
    self._context: list[int] = []
    self._context_text = ''
    # The last of them.
    self._last: list[int] = []
    self._pending: list[int] = []
    # Characters of the text of _pending that were taken.
    self._taken = 0
    # Text that may be the start of a stop string.
    self._held = ''.join(map(self._piece, token_ids))[len(text):]
    self.is_stopped = False

  def add(self, token_ids: Iterable[int]) -> str:
    """Returns the text that is certain now and was not before."""
    if self.is_stopped:
      return ''
    return self._up_to_stop(''.join(map(self._piece, token_ids)))

  def finish(self) -> str:
    """Returns the rest: nothing follows that could complete it."""
    if self.is_stopped:
      return ''
    piece = self._up_to_stop(self._take(self._pending_text()))
    if not self.is_stopped:
      piece, self._held = piece + self._held, ''
    return piece

  def _piece(self, token_id: int) -> str:
    self._pending.append(token_id)
    text = self._pending_text()
    whole = text[:len(text) - _incomplete(text)]
    piece = self._take(whole)
    if text and whole == text:
      # A context needs a text, which a blank alone may not have.
      for before in ([], self._last, self._context):
        context = before + self._pending
        if self._decode(context):
          break
      self._context = context
      self._context_text = self._decode(self._context)
      self._last, self._pending = self._pending, []
      self._taken = 0
    return piece

  def _pending_text(self) -> str:
    if not self._pending:
      return ''
    both = self._decode(self._context + self._pending)
    if both.startswith(self._context_text):
      return both[len(self._context_text):]
    # Some decoders take back a character if an odd byte follows.
    return self._decode(self._pending)

  def _take(self, text: str) -> str:
    piece = text[self._taken:]
    self._taken = max(self._taken, len(text))
    return piece

  def _up_to_stop(self, piece: str) -> str:
    text = self._held + piece
    start = find_stop(text, self._stop)
    if start is not None:
      self.is_stopped = True
      self._held = ''
      return text[:start]
    certain = len(text) - may_be_stop(text, self._stop)
    self._held = text[certain:]
    return text[:certain]


def _incomplete(text: str) -> int:
  """How many of the last characters may still change."""
  run = len(text) - len(text.rstrip(_REPLACEMENT))
  return min(run, _MAX_INCOMPLETE)
