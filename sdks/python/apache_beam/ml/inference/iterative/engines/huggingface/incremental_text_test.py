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

# pytype: skip-file

import itertools
import unittest

from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from apache_beam.ml.inference.iterative.engines.huggingface.incremental_text import IncrementalText

try:
  from tokenizers import AddedToken
  from tokenizers import Tokenizer
  from tokenizers import decoders
  from tokenizers import models

  from apache_beam.testing.inference.models import tokenizer
except ImportError:
  raise unittest.SkipTest('tokenizers is missing.')

TOKENIZER = tokenizer()

# Text that BPE cuts amid characters, specials, and what is no text at all.
TEXTS = st.text(
    st.one_of(
        st.sampled_from('🦜👨‍👩‍👧é日 \n.�'),
        st.characters(exclude_categories=['Cs'])),
    max_size=12)
IDS = st.lists(
    st.one_of(
        TEXTS.map(lambda text: TOKENIZER(text)['input_ids']),
        st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=4),
        # The tokens of single bytes, in any order.
        st.lists(st.integers(17, 300), max_size=6)),
    max_size=4).map(lambda lists: list(itertools.chain(*lists)))


def decode(ids):
  return TOKENIZER.decode(
      ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def pieces_of(ids, cuts, stream):
  bounds = sorted({min(cut, len(ids)) for cut in cuts} | {0, len(ids)})
  for start, end in zip(bounds, bounds[1:]):
    yield stream.add(ids[start:end])
  yield stream.finish()


def byte_fallback_decode():
  """Of a tokenizer like Llama 2's: words with their blank, and bytes."""
  words = ['▁', '▁to', '▁be', '▁or', 'not']
  vocab = {f'<0x{i:02X}>': i for i in range(256)}
  vocab.update({word: 256 + i for i, word in enumerate(words)})
  vocab['<unk>'] = len(vocab)
  made = Tokenizer(models.BPE(vocab, [], unk_token='<unk>', byte_fallback=True))
  made.add_special_tokens([AddedToken('</s>', special=True)])
  made.decoder = decoders.Sequence([
      decoders.Replace('▁', ' '),
      decoders.ByteFallback(),
      decoders.Fuse(),
      decoders.Strip(' ', 1, 0)
  ])
  return made.decode


class IncrementalTextTest(unittest.TestCase):
  def test_a_character_waits_for_its_last_token(self):
    ids = TOKENIZER('a🦜b')['input_ids']
    stream = IncrementalText(decode)
    pieces = [stream.add([i]) for i in ids]
    self.assertGreater(len(ids), 4)
    self.assertEqual([piece for piece in pieces if piece], ['a', '🦜', 'b'])
    self.assertEqual(stream.finish(), '')

  def test_a_character_that_is_never_whole_comes_at_the_end(self):
    ids = TOKENIZER('a🦜')['input_ids'][:-1]
    stream = IncrementalText(decode)
    self.assertEqual(stream.add(ids), 'a')
    self.assertEqual(stream.finish(), '\ufffd')

  @settings(deadline=None, max_examples=300)
  @given(IDS, st.lists(st.integers(0, 40), max_size=4))
  def test_pieces_make_up_the_text_of_all_ids(self, ids, cuts):
    self.assertEqual(
        ''.join(pieces_of(ids, cuts, IncrementalText(decode))), decode(ids))

  @settings(deadline=None, max_examples=200)
  @given(TEXTS)
  @example('\ufffd' * 4)
  def test_whole_characters_only(self, text):
    ids = TOKENIZER(text)['input_ids']
    stream = IncrementalText(decode)
    pieces = [stream.add([i]) for i in ids]
    # The vocabulary lacks a few bytes, so not each text has ids.
    if decode(ids) == text:
      # Its own U+FFFD look like bytes that lack others.
      odd = len(text) - len(text.rstrip('\ufffd'))
      self.assertEqual(''.join(pieces), text[:len(text) - odd])

  @settings(deadline=None, max_examples=300)
  @given(IDS, st.integers(0, 40), st.lists(st.sampled_from(['a', 'é', '. '])))
  def test_resumed_from_any_index(self, ids, index, stop):
    index = min(index, len(ids))
    whole = ''.join(pieces_of(ids, [], IncrementalText(decode, stop)))
    before = IncrementalText(decode, stop)
    text = ''.join(before.add([i]) for i in ids[:index])
    if before.is_stopped:
      self.assertEqual(text, whole)
      return
    after = IncrementalText(decode, stop, ids[:index], text)
    self.assertEqual(text + ''.join(pieces_of(ids[index:], [], after)), whole)

  @settings(deadline=None, max_examples=200)
  @given(
      st.text('ab.', max_size=20),
      st.lists(st.text('ab.', min_size=1, max_size=4), max_size=3),
      st.lists(st.integers(0, 20)))
  @example('aab', ['ab'], [1, 2])
  @example('.aaa', ['a', '.aaa'], [2])
  @example('.aaa', ['a', '.aaa'], [4])
  def test_ends_before_the_first_stop_string(self, text, stop, cuts):
    ids = TOKENIZER(text)['input_ids']
    stream = IncrementalText(decode, stop)
    # Where a stop string ends and starts, that which is complete first.
    found = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    _, end = min(found, default=(None, None))
    self.assertEqual(''.join(pieces_of(ids, cuts, stream)), text[:end])
    self.assertEqual(stream.is_stopped, bool(found))

  def test_what_cannot_start_a_stop_string_does_not_wait(self):
    stream = IncrementalText(decode, ['end.'])
    self.assertEqual(stream.add(TOKENIZER('the en')['input_ids']), 'the ')
    self.assertEqual(stream.add(TOKENIZER('emy')['input_ids']), 'enemy')

  def test_a_blank_and_an_emoji_in_bytes(self):
    # What a decoder like Llama 2's shows for it until its last byte.
    fallback = byte_fallback_decode()
    ids = [260, 0x20, *'🦜'.encode()]
    self.assertEqual(fallback(ids[:-1]), 'not����')
    stream = IncrementalText(fallback)
    self.assertEqual([stream.add([i]) for i in ids],
                     ['not', ' ', '', '', '', '🦜'])
    self.assertEqual(stream.finish(), '')

  @settings(deadline=None, max_examples=200)
  @given(
      st.lists(
          st.one_of(
              st.integers(256, 260).map(lambda i: [i]),
              # Also blanks and letters, which have tokens of their own.
              st.sampled_from('🦜é日 a').map(lambda c: list(c.encode())),
              # The special token.
              st.just([262])),
          max_size=8).map(lambda lists: list(itertools.chain(*lists))),
      st.lists(st.integers(0, 20)))
  def test_blanks_and_bytes_of_another_tokenizer(self, ids, cuts):
    fallback = byte_fallback_decode()
    pieces = list(pieces_of(ids, cuts, IncrementalText(fallback)))
    self.assertEqual(''.join(pieces), fallback(ids))
    self.assertNotIn('\ufffd', ''.join(pieces))

  @settings(deadline=None, max_examples=100)
  @given(st.lists(st.integers(0, 262), max_size=20))
  def test_odd_bytes_of_another_tokenizer_do_no_harm(self, ids):
    fallback = byte_fallback_decode()
    stream = IncrementalText(fallback)
    text = ''.join(stream.add([i]) for i in ids) + stream.finish()
    # It takes characters back when an odd byte follows, which a stream cannot.
    words = [i for i in ids if 257 <= i <= 260]
    self.assertEqual(
        sum(text.count(w) for w in ('to', 'be', 'or', 'not')), len(words))

  def test_cost_does_not_grow_with_the_text(self):
    ids = TOKENIZER('to be or not to be, 🦜 ' * 200)['input_ids']
    decoded = 0

    def counting(ids):
      nonlocal decoded
      decoded += len(ids)
      return decode(ids)

    stream = IncrementalText(counting)
    for i in ids:
      stream.add([i])
    self.assertLess(decoded, 10 * len(ids))

  def test_cost_does_not_grow_with_blanks(self):
    fallback, decoded = byte_fallback_decode(), 0

    def counting(ids):
      nonlocal decoded
      decoded += len(ids)
      return fallback(ids)

    ids = [260] + [0x20] * 300
    self.assertEqual(
        ''.join(pieces_of(ids, range(300), IncrementalText(counting))),
        fallback(ids))
    self.assertLess(decoded, 20 * len(ids))


if __name__ == '__main__':
  unittest.main()
