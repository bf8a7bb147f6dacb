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

import collections
import dataclasses
import inspect
import random
import unittest
from typing import Any
from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

import apache_beam as beam
from apache_beam import coders
from apache_beam import typehints
from apache_beam.metrics import MetricsFilter
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
from apache_beam.transforms.userstate import BagStateSpec
from apache_beam.transforms.userstate import TimerSpec
from apache_beam.utils.timestamp import Timestamp

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


class _Timer:
  """Keeps the latest time that it was set to."""
  def __init__(self):
    self.time = None

  def set(self, time):
    self.time = time

  def clear(self):
    self.time = None

  @property
  def is_empty(self):
    return self.time is None


class _Runner:
  """Stands in for a runner: a stateful DoFn, the state and timers of each key.
  """
  def __init__(self, fold, **kwargs):
    self._do_fn = fold_fns.stateful('Fold', fold, Chunk, **kwargs)
    self._cells = collections.defaultdict(dict)

  def process(self, element, timestamp=Timestamp(3)):
    [pair] = fold_fns.WithRequestId('Fold').process(element)
    return list(
        self._do_fn.process(
            pair, **self._kwargs(self._do_fn.process, pair[0], timestamp)))

  def fire(self, name, key, timestamp=Timestamp(0)):
    """What a callback gives, whether its timer is set or not."""
    self._cells[key].pop(name[len('on_'):], None)
    callback = getattr(self._do_fn, name)
    return list(callback(**self._kwargs(callback, key, timestamp)))

  def timer(self, name, key):
    return self._cells[key][name].time

  def _kwargs(self, method, key, timestamp):
    known = {
        beam.DoFn.WindowParam: window.GlobalWindow(),
        beam.DoFn.TimestampParam: timestamp,
        beam.DoFn.KeyParam: key,
    }
    kwargs = {}
    for name, param in inspect.signature(method).parameters.items():
      default = param.default
      if isinstance(default, beam.DoFn.StateParam):
        kwargs[name] = self._cell(key, name, default.state_spec)
      elif isinstance(default, beam.DoFn.TimerParam):
        kwargs[name] = self._cell(key, name, default.timer_spec)
      elif default is not param.empty:
        kwargs[name] = next(
            value for kind, value in known.items() if kind == default)
    return kwargs

  def _cell(self, key, name, spec):
    cells = self._cells[key]
    if name not in cells:
      if isinstance(spec, TimerSpec):
        cells[name] = _Timer()
      else:
        kind = _Bag if isinstance(spec, BagStateSpec) else _Value
        cells[name] = kind(spec)
    return cells[name]

  def state_count(self):
    """How many cells and timers are left."""
    return sum(
        not cell.is_empty for cells in self._cells.values()
        for cell in cells.values())

  def written(self, key):
    return sum(getattr(c, 'written', 0) for c in self._cells[key].values())


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
        written.append(runner.written('r'))
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


class GivesUpTest(unittest.TestCase):
  """Requests of which a chunk never arrives, without a pipeline."""
  def setUp(self):
    self.now = 1000.0
    patch = mock.patch.object(fold_fns, '_now', lambda: self.now)
    patch.start()
    self.addCleanup(patch.stop)

  def lose(self, fold, lost, **kwargs):
    """A runner that folded a text but for its lost chunks, and its outputs."""
    runner = _Runner(fold, **kwargs)
    outputs = []
    for chunk in _shuffled(_chunks('r')):
      if chunk.index not in lost:
        outputs += runner.process(chunk)
    return runner, outputs

  @given(
      st.sets(st.sampled_from(range(len(_PARTS))), min_size=1),
      st.sampled_from([_WHOLE, _SENTENCES, _GROW]),
      st.sampled_from([None, 30.0]),
      st.booleans())
  def test_each_request_ends_once_and_leaves_nothing(
      self, lost, fold, secs, at_window_end):
    self.now = 1000.0
    runner, outputs = self.lose(fold, lost, give_up_secs=secs)
    if len(lost) == len(_PARTS):
      # Of this one nobody knows.
      self.assertEqual((runner.state_count(), outputs), (0, []))
      return
    self.assertFalse([o for o in outputs if o.is_last])
    missing = min(lost)
    if at_window_end or secs is None:
      last = runner.fire('on_window_end', 'r')
      why = 'before the end of its window, or of the input'
    else:
      self.now += 31
      last = runner.fire('on_deadline', 'r')
      why = 'in 30 s'
    ends = [output.value for output in last]
    self.assertTrue(ends[-1].is_last)
    self.assertEqual(ends[-1].finish_reason, 'error')
    self.assertEqual(
        ends[-1].error,
        f"lost: chunk {missing} of request 'r' did not arrive {why}")
    outputs += ends
    self.assertEqual(sum(output.is_last for output in outputs), 1)
    if fold is _SENTENCES:
      text = ''.join(output.text for output in outputs)
    else:
      text = outputs[-1].text
      self.assertEqual(outputs[-1].index, missing)
    self.assertEqual(text, ''.join(_PARTS[:missing]))
    if fold is _WHOLE:
      has_last = len(_PARTS) - 1 not in lost
      self.assertEqual(outputs[-1].example, 'prompt of r' if has_last else None)
    self.assertEqual([output.timestamp for output in last],
                     [Timestamp(3)] * len(last))
    self.assertEqual(runner.state_count(), 0)

  def test_it_waits_since_the_newest_chunk(self):
    runner, _ = self.lose(_WHOLE, {2, 4}, give_up_secs=30.0)
    self.assertEqual(float(runner.timer('deadline', 'r')), 1030.0)
    self.now += 20
    runner.process(_chunks('r')[2])
    # It is not set for each chunk.
    self.assertEqual(float(runner.timer('deadline', 'r')), 1030.0)
    self.now += 10
    self.assertEqual(runner.fire('on_deadline', 'r', Timestamp(7)), [])
    self.assertEqual(float(runner.timer('deadline', 'r')), 1050.0)
    self.now += 20
    (end, ) = runner.fire('on_deadline', 'r')
    self.assertIn('chunk 4', end.value.error)
    # The watermark was held there since the callback set the timer.
    self.assertEqual(float(end.timestamp), 7.0)
    for name in ('on_deadline', 'on_window_end'):
      self.assertEqual(runner.fire(name, 'r'), [])
    # What arrives later is a request of its own, and given up in turn.
    runner.process(_chunks('r')[4])
    (end, ) = runner.fire('on_window_end', 'r')
    self.assertIn('chunk 0', end.value.error)

  def test_a_timer_that_fires_early_is_set_by_the_next_chunk(self):
    # As Prism fires it when it is cleared, and the FnApiRunner at once. Set by
    # the callback it would fire again and again.
    runner, _ = self.lose(_WHOLE, {2, 4}, give_up_secs=30.0)
    for _ in range(2):
      self.assertEqual(runner.fire('on_deadline', 'r'), [])
      self.assertIsNone(runner.timer('deadline', 'r'))
    self.now += 20
    runner.process(_chunks('r')[2])
    self.assertEqual(float(runner.timer('deadline', 'r')), 1050.0)
    self.now += 30
    (end, ) = runner.fire('on_deadline', 'r')
    self.assertIn('chunk 4', end.value.error)

  def test_the_clock_of_a_runner_is_ahead(self):
    runner, _ = self.lose(_WHOLE, {2, 4}, give_up_secs=30.0)
    self.now += 29
    self.assertEqual(runner.fire('on_deadline', 'r'), [])
    self.assertEqual(float(runner.timer('deadline', 'r')), 1030.0)
    self.now += 1
    (end, ) = runner.fire('on_deadline', 'r')
    self.assertIn('chunk 2', end.value.error)

  def test_complete_requests_leave_no_timer(self):
    for fold in (_WHOLE, _SENTENCES, _GROW):
      runner, _ = self.lose(fold, (), give_up_secs=30.0)
      self.assertEqual(runner.state_count(), 0)
      self.now += 31
      for name in ('on_deadline', 'on_window_end'):
        self.assertEqual(runner.fire(name, 'r'), [])

  def test_no_result_of_what_is_among_the_dead_letters(self):
    *before, last = _chunks('r', reason='error')
    last = dataclasses.replace(last, dead_lettered=True)
    runner = _Runner(_WHOLE)
    for chunk in _shuffled([*before, last]):
      self.assertEqual(runner.process(chunk), [])
    self.assertEqual(runner.state_count(), 0)
    within = fold_fns.FoldWithinBundle('Fold', _WHOLE)
    within.start_bundle()
    for chunk in [*before, last]:
      self.assertEqual(list(within.process(chunk, window.GlobalWindow())), [])
    within.finish_bundle()

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
      _ = p | beam.Create(_chunks('a')).with_output_types(Chunk) | FinalsOnly()
      p.visit(Find())
      self.assertEqual(set(found), domains)


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

  def test_what_never_ends_in_its_window_ends_with_an_error(self):
    with TestPipeline('FnApiRunner') as p:
      finals = (
          p | beam.Create([(5, chunk) for chunk in _chunks('a')
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
    chunks = [*_chunks('a'), *_chunks('b')]
    del chunks[2]
    with self.assertRaisesRegex(
        Exception, "FoldToPredictionResult: request 'a' ended .*lost: chunk 2"):
      with TestPipeline('FnApiRunner') as p:
        _ = p | beam.Create(_shuffled(chunks)) | FoldToPredictionResult()
    with TestPipeline('FnApiRunner') as p:
      results = (
          p | beam.Create(_shuffled(chunks))
          | FoldToPredictionResult(errors='skip')
          | beam.Map(lambda result: result.example))
      assert_that(results, equal_to(['prompt of b']))

  def test_a_stream_without_windows_gives_up_by_the_clock(self):
    # The input goes on, and no window ends.
    lost, whole = _chunks('a'), _chunks('b')
    stream = (
        TestStream(coder=coders.PickleCoder()).advance_watermark_to(
            0).add_elements(lost[:2] + lost[3:] + whole[:3])
        # So much later the first is given up, and the second is not.
        .advance_processing_time(20).add_elements(
            whole[3:5]).advance_processing_time(20).add_elements(
                whole[5:]).advance_processing_time(20).add_elements(
                    _chunks('c')))
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
    # 'Two! ' ends with 'Three', which is not in small letters.
    self.assertEqual(out, [0, 1, 0, 1, 1, 1])

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
          TestPipeline() | beam.Create(_chunks('a'))
          | beam.WindowInto(window.Sessions(5)) | FinalsOnly())


if __name__ == '__main__':
  unittest.main()
