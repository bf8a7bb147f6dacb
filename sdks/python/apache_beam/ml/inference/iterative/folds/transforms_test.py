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
from typing import Any
from unittest import mock

import numpy as np

import apache_beam as beam
from apache_beam import coders
from apache_beam import typehints
from apache_beam.metrics import MetricsFilter
from apache_beam.ml.inference.base import PredictionResult
from apache_beam.ml.inference.iterative.chunk import Chunk
from apache_beam.ml.inference.iterative.folds import do_fns as fold_fns
from apache_beam.ml.inference.iterative.folds.do_fns_test import PARTS
from apache_beam.ml.inference.iterative.folds.do_fns_test import SENTENCES
from apache_beam.ml.inference.iterative.folds.do_fns_test import TEXT
from apache_beam.ml.inference.iterative.folds.do_fns_test import chunks_of
from apache_beam.ml.inference.iterative.folds.do_fns_test import shuffled
from apache_beam.ml.inference.iterative.folds.texts import PartialText
from apache_beam.ml.inference.iterative.folds.texts import Sentence
from apache_beam.ml.inference.iterative.folds.transforms import FinalsOnly
from apache_beam.ml.inference.iterative.folds.transforms import FoldToPredictionResult
from apache_beam.ml.inference.iterative.folds.transforms import Sentences
from apache_beam.ml.inference.iterative.folds.transforms import TextSoFar
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pipeline import PipelineVisitor
from apache_beam.runners.direct import clock
from apache_beam.runners.direct import direct_runner
from apache_beam.runners.direct.direct_runner import SwitchingDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.prism_runner import PrismRunner
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.test_stream import TestStream
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.transforms import userstate
from apache_beam.transforms import window
from apache_beam.transforms.timeutil import TimeDomain


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
    elements = shuffled([
        *chunks_of('a'),
        *chunks_of('b', reason='cancelled'),
        *chunks_of('c', reason='error')
    ])
    with TestPipeline('FnApiRunner') as p:
      results = (
          p | beam.Create(elements).with_output_types(Chunk)
          | FoldToPredictionResult(errors='skip'))
      self.assertEqual(results.element_type, PredictionResult)
      tokens = tuple(t for i in range(len(PARTS)) for t in (i, 100 + i))
      assert_that(
          results | beam.Map(
              lambda r: (r.example, r.model_id, *vars(r.inference).values())),
          equal_to([
              (f'prompt of {name}', 'm', TEXT, tokens, None, reason, 7, 12)
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
      self._run(chunks_of('a1', reason='error'), FoldToPredictionResult(), [])

  def test_finals(self):
    a, b = chunks_of('a'), chunks_of('b', [''])
    self._run(
        shuffled([*a, *b]),
        FinalsOnly(),
        [
            Chunk(
                'a',
                len(PARTS) - 1,
                TEXT,
                tuple(t for c in a for t in c.token_ids),
                finish_reason='stop',
                usage=a[-1].usage,
                model_id='m',
                example='prompt of a'),
            *b
        ])

  def test_text_so_far(self):
    self._run(
        shuffled(chunks_of('a')),
        TextSoFar(),
        [
            PartialText(
                'a',
                i,
                ''.join(PARTS[:i + 1]),
                'stop' if i == len(PARTS) - 1 else None)
            for i in range(len(PARTS))
        ])

  def test_sentences_of_keyed_chunks(self):
    elements = [(k, c) for k in (1, 2) for c in chunks_of(f'r{k}')]
    folded = self._run(
        shuffled(elements),
        Sentences(),
        [(k, Sentence(f'r{k}', i, text, reason)) for k in (1, 2)
         for i, text, reason in ((0, 'One. ', None), (1, 'Two! ', None),
                                 (2, 'Three. ', None), (3, '3.5', 'stop'))],
        tuple[int, Chunk])
    self.assertEqual(folded.element_type, typehints.Tuple[int, Sentence])

  def test_keys_are_told_by_element_where_types_are_not_known(self):
    elements = [*chunks_of('a'), *(('k', c) for c in chunks_of('b'))]
    self._run(
        shuffled(elements),
        FinalsOnly() | beam.Map(
            lambda e: (e[0], e[1].text) if isinstance(e, tuple) else e.text),
        [TEXT, ('k', TEXT)],
        Any)

  def test_annotations_behind_it(self):
    def text_of(chunk: Chunk) -> str:
      return chunk.text

    def sentence_of(sentence: Sentence) -> str:
      return sentence.text

    for hint in (Chunk, Chunk[str]):
      with TestPipeline('FnApiRunner') as p:
        chunks = p | beam.Create(chunks_of('a')).with_output_types(hint)
        finals = chunks | FinalsOnly()
        self.assertEqual(finals.element_type, hint)
        assert_that(finals | 'text' >> beam.Map(text_of), equal_to([TEXT]))
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
    first, second = shuffled(chunks_of('a')), shuffled(chunks_of('b'), 2)
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
            p | beam.Create([chunks_of('a')]) | beam.FlatMap(list)
            | beam.Map(lambda c: window.TimestampedValue(c, 7))
            | beam.WindowInto(window.SlidingWindows(10, 5))
            | FinalsOnly(within_bundle) | beam.ParDo(_WithTime()))
        assert_that(finals, equal_to([(0, 'a', TEXT, 7), (5, 'a', TEXT, 7)]))

  def test_what_never_ends_in_its_window_ends_with_an_error(self):
    with TestPipeline('FnApiRunner') as p:
      finals = (
          p | beam.Create([(5, chunk) for chunk in chunks_of('a')
                           ]).with_output_types(tuple[int, Chunk[str]])
          | beam.Map(lambda e: window.TimestampedValue(e, e[1].index)).
          with_output_types(tuple[int, Chunk[str]])
          | beam.WindowInto(window.FixedWindows(3)) | FinalsOnly())
      ends = finals | beam.Map(
          lambda pair, w=beam.DoFn.WindowParam, t=beam.DoFn.TimestampParam: (
              pair[0], float(w.start), w.start <= t < w.end, pair[1].
              index, pair[1].text, pair[1].example, pair[1].error.partition(
                  ' did')[0]))
      lost = "lost: chunk %d of request 'a'"
      assert_that(
          ends,
          equal_to([
              (5, 0.0, True, 3, 'One. Two! ', None, lost % 3),
              # Its last chunk is there.
              (5, 3.0, True, 0, '', 'prompt of a', lost % 0)
          ]))
    counters = p.result.metrics().query(
        MetricsFilter().with_namespace('FinalsOnly'))['counters']
    self.assertEqual([(c.key.metric.name, c.committed) for c in counters],
                     [('incomplete_requests', 2)])

  def test_a_lost_chunk_fails_or_skips_its_result(self):
    chunks = [*chunks_of('a'), *chunks_of('b')]
    del chunks[2]
    with self.assertRaisesRegex(
        Exception, "FoldToPredictionResult: request 'a' ended .*lost: chunk 2"):
      with TestPipeline('FnApiRunner') as p:
        _ = p | beam.Create(shuffled(chunks)) | FoldToPredictionResult()
    with TestPipeline('FnApiRunner') as p:
      results = (
          p | beam.Create(shuffled(chunks))
          | FoldToPredictionResult(errors='skip')
          | beam.Map(lambda result: result.example))
      assert_that(results, equal_to(['prompt of b']))

  def test_a_stream_without_windows_gives_up_by_the_clock(self):
    # The input goes on, and no window ends.
    lost, whole = chunks_of('a'), chunks_of('b')
    stream = (
        TestStream(coder=coders.PickleCoder()).advance_watermark_to(
            0).add_elements(lost[:2] + lost[3:] + whole[:3])
        # So much later the first is given up, and the second is not.
        .advance_processing_time(20).add_elements(
            whole[3:5]).advance_processing_time(20).add_elements(
                whole[5:]).advance_processing_time(20).add_elements(
                    chunks_of('c')))
    options = PipelineOptions(['--streaming'])
    clocks = []

    def test_clock():
      clocks.append(clock.TestClock())
      return clocks[-1]

    with mock.patch.object(
        direct_runner, 'TestClock', test_clock), mock.patch.object(
            fold_fns, '_now',
            lambda: float(clocks[-1].time())), TestPipeline(
                'DirectRunner', options) as p:
      sentences = (
          p | stream.with_output_types(Chunk)
          | Sentences(give_up_secs=30)
          | beam.Map(lambda s: (s.request_id, s.index, s.finish_reason)))
      assert_that(
          sentences,
          equal_to([('a', 0, None), ('a', 1, 'error')] +
                   [(name, i, 'stop' if i == 3 else None) for name in 'bc'
                    for i in range(4)]))


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
    a, b = chunks_of('a'), [('k', c) for c in chunks_of('b', reason='length')]
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
    fold = fold_fns.FoldWithinBundle('Sentences', SENTENCES)
    fold.start_bundle()
    out = [
        len(list(fold.process(chunk, window.GlobalWindow())))
        for chunk in chunks_of('a')
    ]
    fold.finish_bundle()
    # 'Two! ' ends with 'Three', which is not in small letters.
    self.assertEqual(out, [0, 1, 0, 1, 1, 1])

  def test_a_gap_names_the_request(self):
    for elements, what in ((chunks_of('a')[1:], 'chunk 1 came, not 0'),
                           (chunks_of('a')[:2], 'last chunk is not in the same'),
                           ([*chunks_of('a')[:2], *chunks_of('a')], 'chunk 0 came')):
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
    for secs, error in (('9', TypeError), (True, TypeError), (0, ValueError),
                        (float('inf'), ValueError)):
      with self.assertRaisesRegex(error, r'FinalsOnly\(give_up_secs='):
        FinalsOnly(give_up_secs=secs)
    with self.assertRaisesRegex(ValueError, 'no effect with within_bundle'):
      TextSoFar(within_bundle=True, give_up_secs=9)

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
          TestPipeline() | beam.Create(chunks_of('a'))
          | beam.WindowInto(window.Sessions(5)) | FinalsOnly())

  def test_the_direct_runner_needs_a_dofn_without_a_clock(self):
    for runner, domains in (
        (SwitchingDirectRunner(), {TimeDomain.WATERMARK}),
        (FnApiRunner(), {TimeDomain.WATERMARK}),
        (PrismRunner(), {TimeDomain.WATERMARK, TimeDomain.REAL_TIME})):
      found = []

      class Find(PipelineVisitor):
        def visit_transform(self, applied, found=found):
          if isinstance(applied.transform, beam.ParDo):
            _, timers = userstate.get_dofn_specs(applied.transform.dofn)
            found += [timer.time_domain for timer in timers]

      p = beam.Pipeline(runner)
      _ = p | beam.Create(
          chunks_of('a')).with_output_types(Chunk) | FinalsOnly()
      p.visit(Find())
      self.assertEqual(set(found), domains)


if __name__ == '__main__':
  unittest.main()
