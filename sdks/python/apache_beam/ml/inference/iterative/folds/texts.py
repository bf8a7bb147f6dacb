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

"""What can be told of a text before all of it is there."""

import dataclasses
import re

from apache_beam.ml.inference.iterative.chunk import Chunk
from apache_beam.ml.inference.iterative.folds.sentence_ends import CLOSING
from apache_beam.ml.inference.iterative.folds.sentence_ends import ends_sentence
from apache_beam.ml.inference.iterative.folds.sentence_ends import is_list_mark

# These may end a sentence if white space follows,
_ENDS = '.!?…؟۔।॥'
# these end it whatever follows, as nothing is put between words.
_CJK_ENDS = '。！？'
_ANY = re.escape(_ENDS + _CJK_ENDS + CLOSING)
# With the dots of an ellipsis . . . like this.
_END = re.compile(rf'\n|[{_ENDS}{_CJK_ENDS}](?: \.(?=[\s{_ANY}]|\Z)|[{_ANY}])*')
_HAS_CJK_END = re.compile(f'[{_CJK_ENDS}]')


@dataclasses.dataclass(frozen=True)
class PartialText:
  """The text of a request from its start to the end of one of its chunks.

  Attributes:
    request_id: as in a Chunk.
    index: that of the chunk.
    text: a prefix of the texts with a larger index.
    finish_reason, error: those of the chunk.
  """
  request_id: str
  index: int
  text: str
  finish_reason: str | None = None
  error: str | None = None

  @property
  def is_last(self) -> bool:
    return self.finish_reason is not None


@dataclasses.dataclass(frozen=True)
class Sentence:
  """A sentence of a request's text.

  Attributes:
    request_id: as in a Chunk.
    index: the position among the sentences of the text, from 0, without a gap.
    text: the sentence with the white space around it; joined, the sentences are
      the text. Only the last sentence may have no word, or be empty.
    finish_reason, error: on the last sentence those of the last chunk,
      otherwise None. Unless the reason is 'stop', it may be incomplete.
  """
  request_id: str
  index: int
  text: str
  finish_reason: str | None = None
  error: str | None = None

  @property
  def is_last(self) -> bool:
    return self.finish_reason is not None


def split(text: str) -> list[str]:
  """Cuts a text after each sentence that is known to be complete.

  A sentence ends after ``. ! ? …`` and the white space after it, after
  ``。 ！ ？``, and after a new line. Quotes and brackets that close, and marks
  of Markdown, belong to the sentence before. Numbers of lists, initials, common
  abbreviations (English and German) and an ellipsis amid a sentence do not end
  it. What tells may be the word that follows.

  Returns:
    The sentences, and what is left of the text, which may be empty. More text
    changes only what is left.
  """
  parts, start = [], 0
  for match in _END.finditer(text):
    end, before = match.end(), text[start:match.start()]
    if match[0] == '\n':
      if not before.strip() or is_list_mark(before):
        continue
    elif end == len(text):
      # The next character tells: "3." may become "3.5", "。" become "。」".
      break
    elif not _HAS_CJK_END.search(match[0]):
      if not text[end].isspace():
        continue
      is_end = ends_sentence(before, match[0], text[end:])
      if is_end is None:
        break
      if not is_end:
        continue
    end += match[0] != '\n' and text[end].isspace()
    parts.append(text[start:end])
    start = end
  return [*parts, text[start:]]


def grow(held: tuple[str, int],
         chunk: Chunk) -> tuple[list[PartialText], tuple[str, int]]:
  """The text up to a chunk.

  Args:
    held: the text before it, and a number.
    chunk: the next one.

  Returns:
    The text with it, and what to hold for the next.
  """
  text = held[0] + chunk.text
  whole = PartialText(
      chunk.request_id, chunk.index, text, chunk.finish_reason, chunk.error)
  return [whole], (text, 0)


def cut_sentences(held: tuple[str, int],
                  chunk: Chunk) -> tuple[list[Sentence], tuple[str, int]]:
  """The sentences that are complete with a chunk.

  Args:
    held: the unfinished text before it, and how many sentences there were.
    chunk: the next one.

  Returns:
    Those sentences, and what to hold for the next.
  """
  rest, index = held
  parts = split(rest + chunk.text)
  if not chunk.is_last:
    rest = parts.pop()
  sentences = [
      Sentence(chunk.request_id, index + i, part)
      for i, part in enumerate(parts)
  ]
  if chunk.is_last:
    sentences[-1] = dataclasses.replace(
        sentences[-1], finish_reason=chunk.finish_reason, error=chunk.error)
  return sentences, (rest, index + len(parts))
