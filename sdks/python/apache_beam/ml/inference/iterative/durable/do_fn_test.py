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
import random
import tempfile
import unittest

import apache_beam as beam
from apache_beam.metrics import MetricsFilter
from apache_beam.ml.inference.base import KeyedModelHandler
from apache_beam.ml.inference.base import RunInference
from apache_beam.ml.inference.iterative.engines.generator import GeneratorModelHandler
from apache_beam.ml.inference.iterative.folds.transforms import FinalsOnly
from apache_beam.ml.inference.iterative.folds.transforms import FoldToPredictionResult
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.testing.inference.clock_session import ClockModelHandler
from apache_beam.testing.inference.clock_session import ClockSession
from apache_beam.testing.inference.clock_session import clock_text
from apache_beam.testing.inference.clock_session import clock_token_ids
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.transforms import window

PROMPTS = ['red', 'green', 'blue', 'yellow', 'black']


class _MortalSession(ClockSession):
  """Dies when so many tokens were taken; those opened later live on."""
  tokens_until_death = 0

  def poll(self, *args, **kwargs):
    delta = super().poll(*args, **kwargs)
    before = _MortalSession.tokens_until_death
    if delta is not None:
      _MortalSession.tokens_until_death -= delta.tokens
    if _MortalSession.tokens_until_death <= 0 < before:
      self.close()
    return delta


class _MortalHandler(ClockModelHandler):
  def open_session(self):
    return _MortalSession(self._tokens, self._rate)

  def prompt_of(self, example):
    if example == 'bad':
      raise ValueError('it is bad')
    return example


def _check(chunks, tokens=20, reason='length'):
  """Raises unless chunks make the texts of their prompts, each once."""
  texts = collections.defaultdict(list)
  for chunk in chunks:
    texts[chunk.request_id].append(chunk)
  for parts in texts.values():
    parts.sort(key=lambda chunk: chunk.index)
    reasons = [part.finish_reason for part in parts]
    assert reasons == [None] * (len(parts) - 1) + [reason], reasons
    assert [part.index for part in parts] == list(range(len(parts)))
    prompt = parts[-1].example
    made = sum((part.token_ids for part in parts), ())
    if reason != 'cancelled':
      assert len(made) == tokens, made
    assert made == clock_token_ids(prompt, 0, len(made))
    assert ''.join(part.text for part in parts) == clock_text(made)
  prompts = sorted(parts[-1].example for parts in texts.values())
  assert prompts == sorted(PROMPTS), prompts


def _fails_amid_a_text(progress):
  if progress.example == 'cut' and progress.tokens > 8:
    raise KeyError('cut')


# The batches of a model; in the module, so that it is not pickled.
batches = []


def _note_batch(batch, model, args):
  batches.append(batch)
  for _ in range(3):
    for position in range(len(batch)):
      yield position, 'x'


def _spell(batch, model, args):
  for place in range(max(map(len, batch))):
    for position, word in enumerate(batch):
      if place < len(word):
        yield position, word[place]


def _joined(parts):
  """The text of chunks, of which the last is marked, and none else."""
  _, texts, are_last = zip(*sorted(parts))
  assert are_last == (False, ) * (len(texts) - 1) + (True, )
  return ''.join(texts)


def pipeline(runner=None, *flags):
  return beam.Pipeline(
      runner or fn_runner.FnApiRunner(),
      PipelineOptions(['--experiments=iterative_inference', *flags]))


def infer(handler=None, **options):
  return 'Infer' >> RunInference(
      handler or _MortalHandler(tokens=20, rate=400),
      iterative=IterativeOptions(mode='durable', chunk_tokens=4, **options))


class DurableTest(unittest.TestCase):
  def setUp(self):
    _MortalSession.tokens_until_death = 0

  def run_and_check(self, runner=None, reason='length', **options):
    """Returns the pipeline's result and its chunks, which have passed."""
    with pipeline(runner) as p:
      chunks = p | beam.Create(PROMPTS) | infer(**options)
      assert_that(chunks, lambda found: _check(found, reason=reason))
    return p.result

  def count(self, result, name):
    found = result.metrics().query(MetricsFilter().with_name(name))['counters']
    return sum(metric.committed for metric in found)

  def test_texts_are_whole(self):
    result = self.run_and_check()
    self.assertEqual(self.count(result, 'tokens'), 100)
    self.assertEqual(self.count(result, 'num_inferences'), 5)
    self.assertEqual(self.count(result, 'resumed'), 0)
    # At most a chunk for 4 tokens, beside the first and the last.
    self.assertLessEqual(self.count(result, 'chunks'), 5 * (20 / 4 + 2))

  def test_checkpoints_are_few(self):
    for rate in (5, 12, 20):
      with pipeline() as p:
        _ = (
            p | beam.Create(PROMPTS)
            | RunInference(
                ClockModelHandler(tokens=64, rate=rate),
                iterative=IterativeOptions(mode='durable')))
      found = p.result.metrics().query(
          MetricsFilter().with_name('checkpoints_per_input'))['distributions']
      checkpoints, = (metric.committed for metric in found)
      self.assertEqual(checkpoints.count, 5)
      self.assertLessEqual(checkpoints.max, 64 / 8 + 2)
      # Each was deferred at its submission, and that counts as well.
      self.assertGreaterEqual(self.count(p.result, 'empty_checkpoints'), 5)

  def test_equal_inputs_are_two(self):
    with pipeline() as p:
      chunks = p | beam.Create(['red', 'red']) | infer()
      texts = (
          chunks
          | beam.Map(lambda chunk: (chunk.request_id, len(chunk.token_ids)))
          | beam.CombinePerKey(sum)
          | beam.Values())
      assert_that(texts, equal_to([20, 20]))

  def test_keys(self):
    with pipeline() as p:
      chunks = (
          p | beam.Create([(prompt[0], prompt) for prompt in PROMPTS])
          | infer(KeyedModelHandler(_MortalHandler(tokens=20, rate=400))))

      def check(found):
        _check([chunk for _, chunk in found])
        keys = {chunk.request_id: key for key, chunk in found}
        for _, chunk in found:
          if chunk.is_last:
            assert keys[chunk.request_id] == chunk.example[0]

      assert_that(chunks, check)

  def test_windows_without_lateness(self):
    # Behind a GroupByKey that would drop what is late.
    with pipeline() as p:
      tokens = (
          p | beam.Create(enumerate(PROMPTS))
          | beam.MapTuple(lambda i, x: window.TimestampedValue(x, 10 * i + 3))
          | beam.WindowInto(window.FixedWindows(10), allowed_lateness=0)
          | infer()
          | beam.Map(lambda chunk: (chunk.request_id, len(chunk.token_ids)))
          | beam.CombinePerKey(sum)
          | beam.Map(lambda pair, w=beam.DoFn.WindowParam: (pair[1], w.start)))
      assert_that(tokens, equal_to([(20, 10 * i) for i in range(5)]))

  def test_timestamps_are_those_of_inputs(self):
    with pipeline() as p:
      stamps = (
          p | beam.Create(PROMPTS)
          | beam.Map(lambda x: window.TimestampedValue(x, len(x)))
          | infer()
          | beam.Map(lambda chunk, t=beam.DoFn.TimestampParam: float(t))
          | beam.Distinct())
      assert_that(stamps, equal_to([3, 4, 5, 6]))

  def test_an_input_in_two_windows_is_generated_for_once(self):
    with pipeline() as p:
      tokens = (
          p | beam.Create(PROMPTS)
          | beam.Map(lambda x: window.TimestampedValue(x, 17))
          | beam.WindowInto(window.SlidingWindows(10, 5))
          | infer(request_id_fn=str)
          | beam.Map(lambda chunk: (chunk.request_id, len(chunk.token_ids)))
          | beam.CombinePerKey(sum)
          | beam.Map(lambda pair, w=beam.DoFn.WindowParam: (*pair, w.start)))
      assert_that(
          tokens,
          equal_to([(prompt, 20, at) for prompt in PROMPTS for at in (10, 15)]))
    # This runner leaves the windows of an element together.
    self.assertEqual(self.count(p.result, 'tokens'), 100)

  def test_the_same_id_in_two_windows_is_two(self):
    with pipeline() as p:
      ends = (
          p | beam.Create(enumerate(PROMPTS))
          | beam.MapTuple(lambda i, x: window.TimestampedValue(x, 10 * i))
          | beam.WindowInto(window.FixedWindows(10))
          | infer(request_id_fn=lambda _: 'same')
          | FoldToPredictionResult()
          | beam.Map(lambda r: (r.example, len(r.inference.token_ids))))
      assert_that(ends, equal_to([(prompt, 20) for prompt in PROMPTS]))

  def test_two_transforms_share_a_model_and_ids(self):
    for mode in ('durable', 'in_bundle'):
      with self.subTest(mode), pipeline() as p:
        inputs = p | beam.Create(PROMPTS)
        for label in ('One', 'Other'):
          results = (
              inputs | label >> RunInference(
                  ClockModelHandler(tokens=20, rate=50),
                  model_identifier='shared',
                  iterative=IterativeOptions(mode=mode, request_id_fn=str))
              | f'Fold{label}' >> FoldToPredictionResult()
              | f'Tokens{label}' >>
              beam.Map(lambda r: (r.example, len(r.inference.token_ids))))
          assert_that(
              results,
              equal_to([(prompt, 20) for prompt in PROMPTS]),
              label=f'check{label}')

  def test_a_duplicate_fails_alone_downstream_too(self):
    for mode in ('durable', 'in_bundle'):
      with self.subTest(mode), pipeline() as p:
        finals = (
            p | beam.Create(['red', 'green', 'red', 'red'], reshuffle=False)
            | RunInference(
                ClockModelHandler(tokens=20, rate=50),
                iterative=IterativeOptions(mode=mode, request_id_fn=str))
            | FinalsOnly()
            | beam.Map(lambda c: (c.example, len(c.token_ids), c.error_kind)))
        assert_that(
            finals,
            equal_to([('red', 20, None), ('green', 20, None),
                      ('red', 0, 'duplicate'), ('red', 0, 'duplicate')]))

  def test_dead_letters(self):
    with pipeline() as p:
      chunks, dead = (
          p | beam.Create([*PROMPTS, 'bad'])
          | infer().with_exception_handling())
      assert_that(chunks, _check, 'CheckGood')
      failed = (
          dead.failed_inferences
          | beam.MapTuple(lambda elements, error: (elements, error[:2])))
      assert_that(
          failed,
          equal_to([(['bad'], (ValueError, 'invalid: it is bad'))]),
          'CheckDead')

  def test_the_default_fold_works_beside_dead_letters(self):
    # Some fail before their first chunk, some amid their text.
    for mode in ('durable', 'in_bundle'):
      with self.subTest(mode), pipeline() as p:
        results, dead = (
            p | beam.Create([*PROMPTS, 'bad', 'cut'])
            | RunInference(
                _MortalHandler(tokens=40, rate=20),
                iterative=IterativeOptions(
                    mode=mode,
                    request_id_fn=str,
                    chunk_tokens=4,
                    stop_when=_fails_amid_a_text)).with_exception_handling())
        folded = results | FoldToPredictionResult() | beam.Map(
            lambda r: (r.example, len(r.inference.token_ids)))
        assert_that(folded, equal_to([(prompt, 40) for prompt in PROMPTS]))
        failed = (
            dead.failed_inferences
            | beam.MapTuple(lambda elements, error: (elements, error[0])))
        assert_that(
            failed,
            equal_to([(['bad'], ValueError), (['cut'], RuntimeError)]),
            'CheckDead')

  def test_exc_class(self):
    def name(prompt):
      return {'red': 'r', 'bad': 'b'}[prompt]

    for exc_class, failed in ((KeyError, ['blue']), (ValueError,
                                                     ['blue', 'bad'])):
      with self.subTest(exc_class):
        p = pipeline()
        _, dead = (
            p | beam.Create(['red', 'blue', 'bad'])
            | infer(
                request_id_fn=name).with_exception_handling(exc_class=exc_class))
        inputs = dead.failed_inferences | beam.FlatMapTuple(lambda one, _: one)
        assert_that(inputs, equal_to(failed))
        if len(failed) < 2:
          with self.assertRaisesRegex(Exception, 'it is bad'):
            p.run()
        else:
          p.run()

  def test_inputs_that_cannot_be_named(self):
    names = {'blue': 'b'}
    with pipeline() as p:
      errors = (
          p | beam.Create(['red', 'blue'])
          | infer(request_id_fn=names.get)
          | beam.Filter(lambda chunk: chunk.is_last)
          | beam.Map(lambda c: (c.example, c.finish_reason, c.error_kind)))
      assert_that(
          errors,
          equal_to([('red', 'error', 'invalid'), ('blue', 'length', None)]))

  def test_more_inputs_than_may_be_in_flight(self):
    self.run_and_check(max_in_flight=2)

  def test_a_generator_function(self):
    with pipeline() as p:
      chunks = (
          p | beam.Create(PROMPTS)
          | infer(GeneratorModelHandler(lambda: None, _spell)))
      texts = (
          chunks
          | beam.Map(lambda c: (c.request_id, (c.index, c.text, c.is_last)))
          | beam.GroupByKey()
          | beam.MapTuple(lambda _, parts: _joined(parts)))
      assert_that(texts, equal_to(PROMPTS))

  def test_batches_of_a_model_that_pads(self):
    prompts = [(3 + 200 * (i % 2) + i // 8) * 'a' for i in range(64)]
    for mode in ('durable', 'in_bundle'):
      for flags in ((), ('--experiments=smart_bucketing', )):
        del batches[:]
        handler = GeneratorModelHandler(
            lambda: None,
            _note_batch,
            min_batch_size=8,
            max_batch_size=8,
            batch_length_fn=len)
        with self.subTest(mode=mode, flags=flags), pipeline(None, *flags) as p:
          chunks = (
              p | beam.Create(prompts)
              | RunInference(handler, iterative=IterativeOptions(mode=mode)))
          texts = (
              chunks
              | beam.Map(lambda c: (c.request_id, len(c.text)))
              | beam.CombinePerKey(sum)
              | beam.Values())
          assert_that(texts, equal_to([3] * 64))
        self.assertEqual(sum(map(len, batches)), 64)
        self.assertLessEqual(max(map(len, batches)), 8)
        self.assertGreaterEqual(sum(len(batch) == 8 for batch in batches), 6)
        padding = sum(
            max(map(len, batch)) * len(batch) - sum(map(len, batch))
            for batch in batches)
        real = sum(map(len, prompts))
        if flags:
          self.assertLess(padding, 0.1 * real)
        else:
          self.assertGreater(padding, 0.5 * real)

  def test_a_bundle_that_is_tried_again(self):
    # Three times each, of which this runner keeps the last. (A text is submitted
    # again the second time, and its chunk is there the third time.)
    self.run_and_check(fn_runner.FnApiRunner(bundle_repeat=2))

  def test_an_engine_that_dies(self):
    _MortalSession.tokens_until_death = 30
    # Slow enough that texts are not done before somebody asks for them.
    result = self.run_and_check(handler=_MortalHandler(tokens=20, rate=20))
    self.assertGreater(self.count(result, 'retries'), 0)
    self.assertGreater(self.count(result, 'resumed'), 0)

  def test_a_runner_that_splits_at_random(self):
    seed = random.randrange(1 << 20)
    chance = random.Random(seed)

    def splits(num_elements):
      yield
      for _ in range(3):
        if num_elements > 0:
          yield chance.random()

    with fn_runner.split_manager('Infer', splits):
      self.run_and_check()

  def test_drain_finishes(self):
    self.run_and_check(fn_runner.FnApiRunner(is_drain=True))

  def test_drain_truncates(self):
    self.run_and_check(
        fn_runner.FnApiRunner(is_drain=True),
        on_drain='truncate',
        reason='cancelled')

  def test_chunks_survive_a_sink(self):
    with tempfile.TemporaryDirectory() as folder:
      with pipeline() as p:
        _ = (
            p | beam.Create(PROMPTS) | infer()
            | beam.Reshuffle()
            | beam.Map(lambda chunk: f'{chunk.example or ""} {chunk.text}')
            | beam.io.WriteToText(folder + '/out'))
      with pipeline() as p:
        words = (
            p | beam.io.ReadFromText(folder + '/out*')
            | beam.FlatMap(str.split))
        expected = [
            word for prompt in PROMPTS
            for word in clock_text(clock_token_ids(prompt, 0, 20)).split()
        ]
        assert_that(words, equal_to(expected + PROMPTS))


if __name__ == '__main__':
  unittest.main()
