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

import unittest

from hypothesis import example
from hypothesis import given
from hypothesis import strategies as st

from apache_beam import coders
from apache_beam.ml.inference.iterative.chunk import Chunk
from apache_beam.ml.inference.iterative.folds import text_coders
from apache_beam.ml.inference.iterative.folds.texts import PartialText
from apache_beam.ml.inference.iterative.folds.texts import Sentence
from apache_beam.ml.inference.iterative.folds.texts import cut_sentences
from apache_beam.ml.inference.iterative.folds.texts import grow
from apache_beam.ml.inference.iterative.folds.texts import split

# What the rules speak of, and a bit of everything else.
_TEXT = st.text(
    st.sampled_from('.!?…。！？"”）」*\n \u3000a3我') | st.characters(),
    max_size=40) | st.lists(
        st.sampled_from(
            'Dr. U.S. etc. 1. 3. p. Jan. J. No. a.m. ... .. . .) ." [...] … '
            'The The\'re he Mai Maier 5 ** ( " : x X \n \n\n'.split(' ')),
        max_size=12).map(' '.join)


def _chunks(parts):
  return [
      Chunk(
          'r', i, part, finish_reason='stop' if i == len(parts) - 1 else None)
      for i, part in enumerate(parts)
  ]


def _run(step, parts):
  """Outputs by chunk."""
  held, outputs = ('', 0), []
  for chunk in _chunks(parts):
    made, held = step(held, chunk)
    outputs.append(made)
  return outputs


def _sentences(parts):
  return sum(_run(cut_sentences, parts), [])


class SplitTest(unittest.TestCase):
  def _check(self, *parts):
    self.assertEqual(split(''.join(parts)), list(parts))

  def test_ends_with_white_space_behind_punctuation(self):
    self._check('One. ', 'Two! ', 'Three?\n', 'Four… ', 'Five')

  def test_a_new_line_ends_what_has_words(self):
    self._check('# Title\n', '\nItem one\n', 'Item two\n', '\n')

  def test_runs_of_punctuation_stay_together(self):
    self._check('What?! ', 'Well... ', 'No')

  def test_quotes_brackets_and_markdown_belong_to_what_they_close(self):
    self._check('"Stop." ', '(He did.) ', '**Then he left.** ', 'Bye')

  def test_numbers_and_names_are_not_cut(self):
    self._check('Pi is 3.14, see beam.apache.org. ', 'Yes')

  def test_cjk_needs_no_white_space(self):
    self._check('你好！', '「我很好。」', '你呢？！', '好。 ', '再见')

  def test_what_may_go_on_is_left(self):
    for text in ('Hello', 'Hello.', 'Hello."', '你好。', '3.', '', ' \n '):
      self.assertEqual(split(text), [text])

  def test_sentences_as_a_person_would_cut_them(self):
    for sentences in (
        # Lists.
        ['1. Wash the rice. ', '2. Boil it. ', '3. Eat.'],
        ['Steps: 1. Wash the rice. ', '2. Boil it.'],
        ['**1.** Wash it. ', '- 2. Boil it.'],
        ['1.\nWash it.\n', 'a. Boil it.\n', 'iv. Eat it.'],
        ['1.2. A part of it. ', '1.3. Another.'],
        ['It has 12. ', 'That is enough.'],
        ['It was in 1999. ', 'Then it ended.'],
        # Initials and acronyms.
        ['J. K. Rowling and George W. Bush met. ', 'They left.'],
        ['We are a team, you and I. ', 'Did you see Albert I. Jones?'],
        ['He works for the U.S. Army in the U.K. ', 'He is far away.'],
        ['I have lived in the U.S. for years. ', 'Good.'],
        ['Take vitamin C. ', 'It helps.'],
        ['He has a Ph.D. in physics. ', 'She has none.'],
        ['At 5 a.m. Mr. Smith left. ', 'At 6 p.m. ', 'He was back.'],
        # Abbreviations.
        ['Dr. Smith met Prof. Jones and Mrs. Lee. ', 'They spoke.'],
        ['Take fruit, e.g. apples, i.e. what grows. ', 'Eat it.'],
        ['It is approx. 3.14, cf. Fig. 3 and No. 5, vol. 2. ', 'Yes.'],
        ['The answer is no. ', 'Try again.'],
        ['Apple Inc. was founded by Jobs et al. in 1976. ', 'It grew.'],
        ['Use pots, pans, etc. for it. ', 'Use pots, etc. ', 'Then stir.'],
        ['In Jan. 2020 it began. ', 'They sat. ', 'Then he rose.'],
        ['Ask Briggs & Co. ', 'They know what Briggs & Co. Ltd. does.'],
        ['I see Mt. Fuji from St. Mary Ave. today. ', 'Do you?'],
        ['Das ist z. B. am 3. Mai so, d. h. bald. ', 'Gut.'],
        ['Se vede la Sra. Lopez. ', 'Bien.'],
        # Numbers and addresses.
        ['It is $3.50 or 1.000. ', 'See https://a.example/b.html?c=1. ', 'OK.'],
        ['Write to jane.doe@example.com. ', 'She reads main.py. ', 'Always.'],
        # An ellipsis, and what is said.
        ['I was ... well, away [...] for a day. ', 'I know.'],
        ['I was... away. ', 'I never meant that... ', 'She left.'],
        ['It was . . . odd. . . . ', 'Then it went.'],
        ['"This is it." she said. ', '"Go!" he said. ', 'They went.'],
        ['He said: "Go." ', 'She went (at once.) ', 'Good.'],
        ['She works at Yahoo! in the cellar. ', 'Really?! ', 'Yes.'],
        ['I said so. ', 'all in small letters. ', 'ok'],
        ['هل أنت بخير؟ ', 'نعم. ', 'शुभ। ', 'ok']):
      with self.subTest(sentences=sentences):
        self._check(*sentences)

  def test_the_word_that_follows_may_tell(self):
    for text, more, is_end in (
        ('In the U.S. ', 'The', None), ('In the U.S. ', 'The ', True),
        ('In the U.S. ', 'Then', None), ('In the U.S. ', 'There,', True),
        ('In the U.S. ', 'Theresa ', False), ('In the U.S. ', 'army', False),
        ('Dr. ', 'The ', False), ('Go. ', '', None), ('Go. ', 'T', True),
        ('Go. ', '"', None), ('Go.\n', '', True), ('Am 3. ', 'Mai', None),
        ('Am 3. ', 'Mai ', False), ('Am 3. ', 'Maier ', True)):
      with self.subTest(text=text, more=more):
        # None: it is open.
        self.assertEqual([text, more] if is_end else [text + more],
                         split(text + more))

  @given(_TEXT)
  @example('A.\n\nB')
  def test_makes_up_the_text(self, text):
    parts = split(text)
    self.assertEqual(''.join(parts), text)
    for part in parts[:-1]:
      self.assertTrue(part.strip())

  @given(_TEXT, _TEXT)
  def test_more_text_changes_only_what_is_left(self, text, more):
    complete = split(text)[:-1]
    self.assertEqual(split(text + more)[:len(complete)], complete)

  @given(_TEXT.filter(bool))
  @example('A. ')
  @example('我。我')
  def test_a_sentence_leaves_as_soon_as_it_is_known(self, text):
    before = split(text[:-1])
    if len(split(text)) == len(before):
      return
    # It ended with this character: another one would have let it go on.
    ends = {
        tuple(split(text[:-1] + other)[:len(before)])
        for other in ('x', ' ', '.', '。', '」', '\n')
    }
    self.assertGreater(len(ends), 1)


class CutSentencesTest(unittest.TestCase):
  @given(st.lists(_TEXT, min_size=1, max_size=12))
  @example(['你好。', '」', 'A. '])
  def test_any_chunks_give_the_same_sentences(self, parts):
    text = ''.join(parts)
    sentences = _sentences(parts)
    self.assertEqual(''.join(s.text for s in sentences), text)
    self.assertEqual(sentences, _sentences([text]))
    self.assertEqual(sentences, _sentences([*text, '']))
    self.assertEqual([s.index for s in sentences], list(range(len(sentences))))
    self.assertEqual([s.is_last for s in sentences].index(True),
                     len(sentences) - 1)

  def test_each_comes_with_the_chunk_that_completes_it(self):
    made = _run(cut_sentences, ['One', '.', ' Two. Thr', 'ee.', ''])
    self.assertEqual(
        made,
        [[], [], [Sentence('r', 0, 'One. '), Sentence('r', 1, 'Two. ')], [],
         [Sentence('r', 2, 'Three.', 'stop')]])

  def test_the_last_may_be_empty(self):
    self.assertEqual(
        _sentences(['So.\n', '']),
        [Sentence('r', 0, 'So.\n'), Sentence('r', 1, '', 'stop')])
    self.assertEqual(_sentences(['']), [Sentence('r', 0, '', 'stop')])

  def test_holds_only_what_is_unfinished(self):
    _, held = cut_sentences(('', 7), Chunk('r', 3, 'One. Two. Th'))
    self.assertEqual(held, ('Th', 9))


class GrowTest(unittest.TestCase):
  @given(st.lists(_TEXT, min_size=1, max_size=12))
  def test_grows_with_each_chunk(self, parts):
    made = sum(_run(grow, parts), [])
    self.assertEqual([m.index for m in made], list(range(len(parts))))
    for i, one in enumerate(made):
      self.assertEqual(one.text, ''.join(parts[:i + 1]))
      self.assertEqual(one.is_last, i == len(parts) - 1)


class CodersTest(unittest.TestCase):
  @given(
      st.sampled_from([PartialText, Sentence]),
      st.text(),
      st.integers(0, 2**40),
      st.text(st.characters()),
      st.sampled_from([None, 'stop', 'error']))
  @example(Sentence, 'r', 0, '\ud83d', None)
  def test_coded_and_decoded(self, part_type, request_id, index, text, reason):
    coder = coders.registry.get_coder(part_type)
    part = part_type(request_id, index, text, reason)
    encoded = coder.encode(part)
    self.assertEqual(coder.decode(encoded), part)
    self.assertIs(type(coder.decode(encoded)), part_type)
    size = len(request_id.encode()) + len(text.encode('utf-8', 'surrogatepass'))
    self.assertLessEqual(len(encoded), size + 20)

  def test_half_a_character_survives(self):
    coder = text_coders.TextCoder()
    self.assertEqual(coder.decode(coder.encode('a\ud83d')), 'a\ud83d')


if __name__ == '__main__':
  unittest.main()
