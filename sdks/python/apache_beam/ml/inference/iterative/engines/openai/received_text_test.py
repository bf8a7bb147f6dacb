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

"""Tests of texts that come in pieces."""

import asyncio
import unittest

from hypothesis import given
from hypothesis import strategies as st

from apache_beam.ml.inference.iterative.engines.openai.begun_text import BegunText
from apache_beam.ml.inference.iterative.engines.openai.received_text import Piece
from apache_beam.ml.inference.iterative.engines.openai.received_text import ReceivedText

CUTS = st.lists(st.integers(0, 200), max_size=10)


def pieces(whole, cuts):
  ends = sorted({min(cut, len(whole)) for cut in cuts} | {len(whole)})
  return [whole[a:b] for a, b in zip([0, *ends], ends)]


class ReceivedTextTest(unittest.TestCase):
  @given(
      st.text('ab<>') | st.text(max_size=100),
      CUTS,
      st.lists(st.text('ab<', min_size=1) | st.text(min_size=1), max_size=2))
  def test_all_is_handed_on_up_to_a_stop_string(self, text, cuts, stop):
    # Cut between the surrogates too, as JSON may.
    units = text.encode('utf-16-le')
    received, handed_on, count = ReceivedText(stop), '', 0
    for number, part in enumerate(pieces(units, [2 * cut for cut in cuts])):
      part = part.decode('utf-16-le', 'surrogatepass')
      piece = received.add(part, [number], 1)
      handed_on += piece.text
      count += len(piece.token_ids)
      self.assertEqual(len(piece.token_ids), piece.tokens)
      handed_on.encode()
      if received.is_stopped:
        break
    else:
      handed_on += received.end().text
    # Of two, that which is complete first, however the text was cut.
    found = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    _, end = min(found, default=(None, None))
    self.assertEqual(bool(found), received.is_stopped)
    self.assertEqual(text[:end], handed_on)

  def test_what_is_uncertain_is_held_back_with_its_tokens(self):
    received = ReceivedText(['<end>'])
    self.assertEqual(Piece('a', (1, ), 1), received.add('a', [1], 1))
    self.assertEqual(Piece(), received.add('', [2], 1))
    self.assertEqual(Piece('🚀', (2, 3), 2), received.add('🚀', [3], 1))
    self.assertEqual(Piece(), received.add('b<en', [4], 1))
    self.assertEqual(Piece('b<en.', (4, 5), 2), received.add('.', [5], 1))
    self.assertEqual(Piece(), received.add('\ud83d', [6], 1))
    self.assertEqual(Piece('\ufffd', (6, ), 1), received.end())


class BegunTextTest(unittest.TestCase):
  def test_a_character_of_three_tokens(self):
    async def detokenize(token_ids):
      known = ['', 'a', 'a\ufffd', 'a\ufffd', 'a🎉', 'a🎉b']
      return known[len(token_ids)]

    async def complete(token_ids, *texts, ends=False):
      begun = BegunText('a', token_ids, detokenize)
      await begun.look()
      return [await begun.complete(text, [0], ends) for text in texts]

    for token_ids, texts, ends, expected in (
        ([0, 0], ['', '', 'b'], False, ['', '🎉', 'b']),
        ([0, 0, 0], ['', 'b'], False, ['🎉', 'b']),
        ([0], ['x'], False, ['x']),
        # It ends amid the character, which vLLM leaves out.
        ([0, 0], [''], True, [''])):
      with self.subTest(token_ids=token_ids, ends=ends):
        self.assertEqual(
            expected, asyncio.run(complete(token_ids, *texts, ends=ends)))


if __name__ == '__main__':
  unittest.main()
