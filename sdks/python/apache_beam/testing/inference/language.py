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

"""A language that tests can foretell, for a server that needs no model."""

import hashlib
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence

_WORDS = (
    ' beam',
    ' stream',
    ' window',
    '.',
    ',',
    ' état',
    ' 流',
    ' trigger',
    ' late',
    '\n',
    ' "quoted"',
    ' data: ',
    ' 🚀')
# Emoji in two tokens each, neither of which is a character.
_HALVES = (b'\xf0\x9f', b'\x9a\x80', b'\x98\x80')
# The bytes of prompts, the words, the halves.
_VOCABULARY = (
    *(bytes([b]) for b in range(256)), *(w.encode() for w in _WORDS), *_HALVES)
_FIRST_WORD = 256
_FIRST_HALF = _FIRST_WORD + len(_WORDS)
END = len(_VOCABULARY)


def encode(text: str) -> list[int]:
  return list(text.encode())


def decode(token_ids: Iterable[int]) -> bytes:
  return b''.join(_VOCABULARY[token] for token in token_ids if token != END)


def render(messages: Sequence[Mapping[str, str]], adds_prompt: bool) -> str:
  """The text for messages; open at its end if the last is to be continued."""
  lines = '\n'.join(f'{m["role"]}: {m["content"]}' for m in messages)
  return lines + '\nassistant: ' if adds_prompt else lines


def next_token(context: bytes) -> int:
  """The token after a text, the same each time; 1 of 60 is END.

  As it depends on nothing but the bytes before, a text that is broken off at a
  character and gone on from, by text or by ids, ends as without the break.
  """
  digest = hashlib.blake2b(context, digest_size=8).digest()
  if ends_amid_character(context):
    return _FIRST_HALF + 1 + digest[0] % 2
  number = int.from_bytes(digest, 'big') % 60
  if number == 0:
    return END
  return _FIRST_WORD + number % (len(_WORDS) + 1)


def ends_amid_character(context: bytes) -> bool:
  return context.endswith(_HALVES[0])


def whole_text(prompt: str, max_tokens: int) -> tuple[str, list[int]]:
  """What a model of the language makes of a prompt, and its tokens.

  Ends before END. An incomplete last character is left out, as by vLLM.
  """
  context = prompt.encode()
  tokens: list[int] = []
  while len(tokens) < max_tokens:
    token = next_token(context)
    if token == END:
      break
    tokens.append(token)
    context += _VOCABULARY[token]
  return decode(tokens).decode(errors='ignore'), tokens
