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

"""Text that token ids before a resumed call have begun."""

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Sequence

# What a decoder shows for a part of a character.
_PART = '\ufffd'


class BegunText:
  """Completes what the token ids of a transcript say beyond its text.

  Those may end amid a character. A server that goes on from them counts its
  part as the prompt's, and leaves it out of what it sends.

  Args:
    text, token_ids: of the transcript.
    detokenize: asks the server for the text of token ids.
  """
  def __init__(
      self,
      text: str,
      token_ids: Sequence[int],
      detokenize: Callable[[Sequence[int]], Awaitable[str]]):
    self._text = text
    self._token_ids = list(token_ids)
    self._detokenize = detokenize
    self._is_begun = False

  async def look(self) -> None:
    """Finds out if there is any."""
    text = await self._decoded()
    # Otherwise the server tells texts apart in ways that are not known here.
    self._is_begun = text != self._text and text.startswith(self._text)

  async def complete(
      self, text: str, token_ids: Sequence[int], is_last: bool) -> str:
    """Returns the text to use for what the server sent."""
    if not self._is_begun:
      return text
    self._token_ids += token_ids
    whole = await self._decoded()
    if whole.endswith(_PART) and not is_last:
      return ''
    self._is_begun = False
    # vLLM leaves out what never became a character.
    return whole.rstrip(_PART)[len(self._text):]

  async def _decoded(self) -> str:
    text = await self._detokenize(self._token_ids)
    # Some tokenizers drop a space at the start.
    is_dropped = self._text.startswith(' ') and not text.startswith(' ')
    return ' ' + text if is_dropped else text
