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

import random
import unittest
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

import apache_beam as beam
from apache_beam import coders
from apache_beam import typehints
from apache_beam.ml.inference.base import PredictionResult
from apache_beam.ml.inference.iterative import fold_fns
from apache_beam.ml.inference.iterative import texts
from apache_beam.ml.inference.iterative.chunk import Chunk
from apache_beam.ml.inference.iterative.chunk import Usage
from apache_beam.ml.inference.iterative.folds import FinalsOnly
from apache_beam.ml.inference.iterative.folds import FoldToPredictionResult
from apache_beam.ml.inference.iterative.folds import Sentences
from apache_beam.ml.inference.iterative.folds import TextSoFar
from apache_beam.ml.inference.iterative.texts import PartialText
from apache_beam.ml.inference.iterative.texts import Sentence
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.test_stream import TestStream
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.transforms import window
from apache_beam.transforms.userstate import BagStateSpec

_PARTS = ('One', '. Two', '! ', 'Three', '. 3.', '5')
_TEXT = ''.join(_PARTS)


def _chunks(request_id, parts=_PARTS, reason='stop', **kwargs):
  last = len(parts) - 1
  chunks = [
      Chunk(request_id, i, part, (i, 100 + i)) for i, part in enumerate(parts)
  ]
  chunks[last] = Chunk(
      request_id,
      last,
      parts[last], (last, 100 + last),
      finish_reason=reason,
      error='server: 503' if reason == 'error' else None,
      usage=Usage(7, 2 * len(parts)),
      model_id='m',
      example=f'prompt of {request_id}',
      **kwargs)
  return chunks


def _shuffled(chunks, seed=1):
  chunks = list(chunks)
  random.Random(seed).shuffle(chunks)
  return chunks


class _Value:
  """State that encodes what it keeps, as a runner does."""
  def __init__(self, spec):
    self._coder = spec.coder
    self._encoded = []
    self.written = 0

  def read(self):
    return self._coder.decode(self._encoded[0]) if self._encoded else None

  def write(self, value):
    self._encoded = [self._coder.encode(value)]
    self.written += len(self._encoded[0])

  def clear(self):
    self._encoded = []

  @property
  def is_empty(self):
    return not self._encoded


class _Bag(_Value):
  def read(self):
    return map(self._coder.decode, self._encoded)

  def add(self, value):
    self._encoded.append(self._coder.encode(value))
    self.written += len(self._encoded[-1])


class _Runner:
  """Stands in for a runner: a stateful DoFn, and the state of each key."""
  def __init__(self, fold):
    self._do_fn = fold_fns.stateful('Fold', fold, Chunk)
    self._specs = [p.state_spec for p in self._do_fn.process.__defaults__]
    self.states = {}

  def process(self, element):
    [pair] = fold_fns.WithRequestId('Fold').process(element)
    if pair[0] not in self.states:
      self.states[pair[0]] = [
          (_Bag if isinstance(spec, BagStateSpec) else _Value)(spec)
          for spec in self._specs
      ]
    return list(self._do_fn.process(pair, *self.states[pair[0]]))

  def state_count(self):
    return sum(
        not state.is_empty for states in self.states.values()
        for state in states)


_WHOLE = fold_fns.WholeFold(lambda whole: [whole])
_SENTENCES = fold_fns.TextFold(texts.cut_sentences)
_GROW = fold_fns.TextFold(texts.grow)


class StatefulTest(unittest.TestCase):
  """Any order of several requests, without a pipeline."""
  @settings(deadline=None)
  @given(
      st.lists(
          st.lists(st.text('ab. \n。', max_size=4), min_size=1, max_size=6),
          min_size=1,
          max_size=4),
      st.booleans(),
      st.randoms(use_true_random=False))
  def test_any_order_gives_what_the_right_order_gives(
      self, all_parts, is_keyed, rng):
    chunks = [
        chunk for i, parts in enumerate(all_parts)
        for chunk in _chunks(f'r{i}', parts)
    ]
    elements = [('k' + c.request_id, c) for c in chunks] if is_keyed else chunks
    shuffled = list(elements)
    rng.shuffle(shuffled)
    for fold in (_WHOLE, _SENTENCES, _GROW):
      got, expected = {}, {}
      for order, into in ((shuffled, got), (elements, expected)):
        runner = _Runner(fold)
        for element in order:
          for output in runner.process(element):
            if is_keyed:
              key, output = output
              self.assertEqual(key, 'k' + output.request_id)
            into.setdefault(output.request_id, []).append(output)
        self.assertEqual(runner.state_count(), 0)
      self.assertEqual(got, expected)
      for i, parts in enumerate(all_parts):
        self.assertTrue(got[f'r{i}'][-1].is_last)
        if fold is not _SENTENCES:
          self.assertEqual(got[f'r{i}'][-1].text, ''.join(parts))

  @given(st.permutations(range(len(_PARTS))))
  def test_what_is_gapless_comes_out_at_once(self, order):
    runner, chunks, came, out = _Runner(_GROW), _chunks('r'), set(), 0
    for index in order:
      came.add(index)
      out += len(runner.process(chunks[index]))
      self.assertEqual(out, min(set(range(len(_PARTS) + 1)) - came))

  def test_state_of_a_text_grows_by_what_comes(self):
    for fold in (_WHOLE, _SENTENCES):
      written = []
      for count in (200, 400):
        runner = _Runner(fold)
        for chunk in _chunks('r', ['Ten chars. '] * count):
          runner.process(chunk)
        written.append(sum(s.written for s in runner.states['r']))
      self.assertLess(written[1], 2.2 * written[0])

  def test_a_chunk_that_comes_twice_is_an_error(self):
    for fold in (_WHOLE, _SENTENCES):
      for again in (0, 2):
        runner, chunks = _Runner(fold), _chunks('r7')
        runner.process(chunks[0])
        runner.process(chunks[2])
        with self.assertRaisesRegex(
            ValueError, f"^Fold: request 'r7': chunk {again} came twice"):
          runner.process(chunks[again])


class FoldsTest(unittest.TestCase):
  """In pipelines on FnApiRunner."""
  def _run(self, elements, transform, expected, hint=Chunk):
    with TestPipeline('FnApiRunner') as p:
      folded = (
          p | beam.Create(elements).with_output_types(hint)
          | beam.Reshuffle() | transform)
      assert_that(folded, equal_to(expected))
    return folded

  def test_prediction_results(self):
    elements = _shuffled([
        *_chunks('a'),
        *_chunks('b', reason='cancelled'),
        *_chunks('c', reason='error')
    ])
    with TestPipeline('FnApiRunner') as p:
      results = (
          p | beam.Create(elements).with_output_types(Chunk)
          | FoldToPredictionResult(errors='skip'))
      self.assertEqual(results.element_type, PredictionResult)
      tokens = tuple(t for i in range(len(_PARTS)) for t in (i, 100 + i))
      assert_that(
          results | beam.Map(
              lambda r: (r.example, r.model_id, *vars(r.inference).values())),
          equal_to([
              (f'prompt of {name}', 'm', _TEXT, tokens, None, reason, 7, 12)
              for name, reason in (('a', 'stop'), ('b', 'cancelled'))
          ]))

  def test_keyed_tensors(self):
    chunks = [
        Chunk('a', 0, values=np.ones((1, 2))),
        Chunk('a', 1, values=np.zeros((2, 2)), finish_reason='stop')
    ]
    hint = tuple[int, Chunk[str]]
    with TestPipeline('FnApiRunner') as p:
      results = (
          p
          | beam.Create([(5, c)
                         for c in reversed(chunks)]).with_output_types(hint)
          | FoldToPredictionResult())
      self.assertEqual(
          results.element_type, typehints.Tuple[int, PredictionResult])
      assert_that(
          results
          | beam.MapTuple(lambda key, r: (key, r.inference.values.tolist())),
          equal_to([(5, [[1, 1], [0, 0], [0, 0]])]))

  def test_an_error_names_request_and_error(self):
    with self.assertRaisesRegex(
        Exception, r"request 'a1' ended with the error 'server: 503'.*'skip'"):
      self._run(_chunks('a1', reason='error'), FoldToPredictionResult(), [])

  def test_finals(self):
    a, b = _chunks('a'), _chunks('b', [''])
    self._run(
        _shuffled([*a, *b]),
        FinalsOnly(),
        [
            Chunk(
                'a',
                len(_PARTS) - 1,
                _TEXT,
                tuple(t for c in a for t in c.token_ids),
                finish_reason='stop',
                usage=a[-1].usage,
                model_id='m',
                example='prompt of a'),
            *b
        ])

  def test_text_so_far(self):
    self._run(
        _shuffled(_chunks('a')),
        TextSoFar(),
        [
            PartialText(
                'a',
                i,
                ''.join(_PARTS[:i + 1]),
                'stop' if i == len(_PARTS) - 1 else None)
            for i in range(len(_PARTS))
        ])

  def test_sentences_of_keyed_chunks(self):
    elements = [(k, c) for k in (1, 2) for c in _chunks(f'r{k}')]
    folded = self._run(
        _shuffled(elements),
        Sentences(),
        [(k, Sentence(f'r{k}', i, text, reason)) for k in (1, 2)
         for i, text, reason in ((0, 'One. ', None), (1, 'Two! ', None),
                                 (2, 'Three. ', None), (3, '3.5', 'stop'))],
        tuple[int, Chunk])
    self.assertEqual(folded.element_type, typehints.Tuple[int, Sentence])

  def test_keys_are_told_by_element_where_types_are_not_known(self):
    elements = [*_chunks('a'), *(('k', c) for c in _chunks('b'))]
    self._run(
        _shuffled(elements),
        FinalsOnly() | beam.Map(
            lambda e: (e[0], e[1].text) if isinstance(e, tuple) else e.text),
        [_TEXT, ('k', _TEXT)],
        Any)

  def test_annotations_behind_it(self):
    def text_of(chunk: Chunk) -> str:
      return chunk.text

    def sentence_of(sentence: Sentence) -> str:
      return sentence.text

    for hint in (Chunk, Chunk[str]):
      with TestPipeline('FnApiRunner') as p:
        chunks = p | beam.Create(_chunks('a')).with_output_types(hint)
        finals = chunks | FinalsOnly()
        self.assertEqual(finals.element_type, hint)
        assert_that(finals | 'text' >> beam.Map(text_of), equal_to([_TEXT]))
        sentences = chunks | Sentences() | beam.Map(sentence_of)
        assert_that(
            sentences,
            equal_to(['One. ', 'Two! ', 'Three. ', '3.5']),
            label='sentences')
    self.assertNotIsInstance(
        coders.registry.get_coder(Sentence), coders.FastPrimitivesCoder)


class WindowsTest(unittest.TestCase):
  def test_bundles_of_a_stream_in_fixed_windows_without_lateness(self):
    # The same text once a window; the watermark passes the first amid it.
    first, second = _shuffled(_chunks('a')), _shuffled(_chunks('b'), 2)
    stream = TestStream(coder=coders.PickleCoder()).advance_watermark_to(0)
    for chunk in first:
      stream = stream.add_elements([window.TimestampedValue(chunk, 3)])
    stream = stream.advance_watermark_to(12)
    for chunk in second[:3]:
      stream = stream.add_elements([window.TimestampedValue(chunk, 13)])
    stream = stream.advance_watermark_to(15).add_elements(
        [window.TimestampedValue(chunk, 16) for chunk in second[3:]])
    stream = stream.advance_watermark_to_infinity()
    # FnApiRunner takes no TestStream.
    options = PipelineOptions(['--streaming'])
    with TestPipeline('DirectRunner', options) as p:
      chunks = (
          p | stream.with_output_types(Chunk)
          | beam.WindowInto(window.FixedWindows(10), allowed_lateness=0))
      sentences = (
          chunks | Sentences() | beam.ParDo(_WithTime())
          # Drops what is late.
          | beam.WithKeys(None) | beam.GroupByKey()
          | beam.FlatMap(lambda pair: sorted(pair[1])))
      assert_that(
          sentences | beam.Map(lambda s: s[:3]),
          equal_to([(start, name, text) for start, name in ((0, 'a'), (10, 'b'))
                    for text in ('One. ', 'Two! ', 'Three. ', '3.5')]))
      # An output has the time of the chunk that completed it.
      assert_that(
          sentences | 'times' >> beam.Map(lambda s: s[3] in (3, 13, 16)),
          equal_to([True] * 8),
          label='times')

  def test_a_request_in_two_windows_is_two(self):
    for within_bundle in (False, True):
      with TestPipeline('FnApiRunner') as p:
        finals = (
            p | beam.Create([_chunks('a')]) | beam.FlatMap(list)
            | beam.Map(lambda c: window.TimestampedValue(c, 7))
            | beam.WindowInto(window.SlidingWindows(10, 5))
            | FinalsOnly(within_bundle) | beam.ParDo(_WithTime()))
        assert_that(finals, equal_to([(0, 'a', _TEXT, 7), (5, 'a', _TEXT, 7)]))

  def test_what_never_ends_in_its_window_gives_nothing(self):
    with TestPipeline('FnApiRunner') as p:
      finals = (
          p | beam.Create(_chunks('a'))
          | beam.Map(lambda c: window.TimestampedValue(c, c.index))
          | beam.WindowInto(window.FixedWindows(3)) | FinalsOnly())
      assert_that(finals, equal_to([]))


class _WithTime(beam.DoFn):
  def process(
      self,
      element,
      window=beam.DoFn.WindowParam,
      timestamp=beam.DoFn.TimestampParam):
    yield float(
        window.start), element.request_id, element.text, float(timestamp)


class WithinBundleTest(unittest.TestCase):
  def test_gives_what_the_shuffled_form_gives(self):
    a, b = _chunks('a'), [('k', c) for c in _chunks('b', reason='length')]
    elements = [chunk for pair in zip(a, b) for chunk in pair]
    for transform in (FinalsOnly, TextSoFar, Sentences):
      with TestPipeline('FnApiRunner') as p:
        chunks = p | beam.Create([None]) | beam.FlatMap(lambda _: elements)
        outputs = [
            chunks | str(flag) >> transform(within_bundle=flag)
            for flag in (False, True)
        ]
        both = (
            outputs[0] | beam.Map(lambda e: ('shuffled', e)),
            outputs[1] | 'Second' >> beam.Map(lambda e: ('within', e)))
        assert_that(
            both | beam.Flatten() | beam.GroupBy(lambda e: repr(e[1])),
            _each_came_from_both)

  def test_comes_out_amid_the_bundle(self):
    fold = fold_fns.FoldWithinBundle('Sentences', _SENTENCES)
    fold.start_bundle()
    out = [
        len(list(fold.process(chunk, window.GlobalWindow())))
        for chunk in _chunks('a')
    ]
    fold.finish_bundle()
    self.assertEqual(out, [0, 1, 1, 0, 1, 1])

  def test_a_gap_names_the_request(self):
    for elements, what in ((_chunks('a')[1:], 'chunk 1 came, not 0'),
                           (_chunks('a')[:2], 'last chunk is not in the same'),
                           ([*_chunks('a')[:2], *_chunks('a')], 'chunk 0 came')):
      with self.assertRaisesRegex(
          Exception,
          rf"FinalsOnly\(within_bundle=True\): request 'a': .*{what}"):
        with TestPipeline('FnApiRunner') as p:
          (
              p | beam.Create([elements]) | beam.FlatMap(list)
              | FinalsOnly(within_bundle=True))


def _each_came_from_both(groups):
  for what, pairs in groups:
    if {where for where, _ in pairs} != {'shuffled', 'within'} or len(
        list(pairs)) != 2:
      raise AssertionError(f'{what}: {pairs}')
  if not groups:
    raise AssertionError('nothing came out')


class RefusesTest(unittest.TestCase):
  def test_parameters(self):
    with self.assertRaisesRegex(ValueError, "errors='ignore'.*'raise' or"):
      FoldToPredictionResult(errors='ignore')
    with self.assertRaisesRegex(TypeError, r'Sentences\(within_bundle=1\)'):
      Sentences(within_bundle=1)

  def test_other_elements(self):
    for hint in (str, tuple[str, str], PredictionResult):
      with self.assertRaisesRegex(TypeError, 'TextSoFar: takes chunks'):
        TestPipeline() | beam.Create([]).with_output_types(hint) | TextSoFar()
    with self.assertRaisesRegex(Exception, "TextSoFar: takes chunks.*'text'"):
      with TestPipeline('FnApiRunner') as p:
        p | beam.Create(['text']).with_output_types(Any) | TextSoFar()

  def test_merging_windows(self):
    with self.assertRaisesRegex(ValueError, 'FinalsOnly: .*merge'):
      (
          TestPipeline() | beam.Create(_chunks('a'))
          | beam.WindowInto(window.Sessions(5)) | FinalsOnly())


if __name__ == '__main__':
  unittest.main()
