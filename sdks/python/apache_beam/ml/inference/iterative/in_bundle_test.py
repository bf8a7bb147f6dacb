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

"""Tests of chunks that are emitted while a bundle is processed."""

import collections
import threading
import time
import unittest

import apache_beam as beam
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.ml.inference.base import KeyedModelHandler
from apache_beam.ml.inference.base import MaybeKeyedModelHandler
from apache_beam.ml.inference.base import RunInference
from apache_beam.ml.inference.iterative.engines.generator import GeneratorModelHandler
from apache_beam.ml.inference.iterative.engines.mailboxes import BufferedSession
from apache_beam.ml.inference.iterative.handler import SessionModelHandler
from apache_beam.ml.inference.iterative.in_bundle import InBundleDoFn
from apache_beam.ml.inference.iterative.inputs import Inputs
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.ml.inference.iterative.session import Delta
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.transforms import window
from apache_beam.utils import windowed_value

# What fused consumers saw, and what the engines of tests did, by test.
seen = collections.defaultdict(list)
submitted = collections.defaultdict(list)
saw_a_chunk = collections.defaultdict(lambda: threading.Semaphore(0))


def words(batch, model, args):
  """Each prompt's words, a word of each at a time."""
  lists = [text.split() for text in batch]
  for step in range(max(map(len, lists))):
    for position, prompt in enumerate(lists):
      if step < len(prompt):
        yield position, prompt[step] + ' '


def no_model():
  return None


def waiting(batch, model, args):
  """Makes more when a downstream step has seen all chunks of each input."""
  for position in range(len(batch)):
    yield position, 'first'
  for _ in batch:
    if not saw_a_chunk[args['name']].acquire(timeout=30):
      raise RuntimeError('nobody saw the first chunks')
  for position in range(len(batch)):
    yield position, ' second'


class See(beam.DoFn):
  """In the module, so that what it writes is not a pickled copy."""
  def __init__(self, name):
    self._name = name

  def process(self, chunk):
    seen[self._name].append(chunk)
    saw_a_chunk[self._name].release()
    yield chunk


def words_handler(**kwargs):
  return GeneratorModelHandler(
      no_model, words, model_id='words', min_batch_size=8, **kwargs)


def pipeline():
  return TestPipeline(
      'FnApiRunner',
      options=PipelineOptions(['--experiments=iterative_inference']))


def summary(chunks):
  """Of the chunks of one input."""
  chunks = sorted(chunks, key=lambda c: c.index)
  indices = [c.index for c in chunks]
  assert indices == list(range(len(chunks))), indices
  assert [c.is_last for c in chunks[:-1]] == [False] * (len(chunks) - 1)
  text = ''.join(c.text for c in chunks)
  return chunks[-1].example, text.strip(), chunks[-1].finish_reason


def in_the_global_window():
  return windowed_value.WindowedValue(None, 0, (window.GlobalWindow(), ))


def summaries(chunks):
  return (
      chunks
      | beam.WithKeys(lambda c: c.request_id)
      | beam.GroupByKey()
      | beam.MapTuple(lambda _, group: summary(group)))


class LosingSession(BufferedSession):
  """Spells prompts; its engine dies once, after some letters in all."""
  resumes = 'exact'
  dies_after = {}

  def __init__(self, name):
    super().__init__()
    self._name = name
    self._prompts = {}

  def _start(self, request, resume_from):
    submitted[self._name].append(request.prompt)
    self._prompts[request.request_id] = (request.prompt, resume_from.tokens)

  def _stop(self, request_id):
    prompt, _ = self._prompts.pop(request_id, ('nothing', 0))
    seen[self._name].append(f'stopped {prompt}')

  def wait(self, timeout):
    # Makes a letter for each request when somebody waits for news.
    for key, (prompt, done) in list(self._prompts.items()):
      left = self.dies_after.get(self._name)
      if left == 0:
        self.dies_after[self._name] = None
        seen[self._name].append('died')
        self.close()
        break
      if left:
        self.dies_after[self._name] = left - 1
      end = done + 1 == len(prompt)
      self._push(
          key,
          Delta(prompt[done], tokens=1, finish_reason='stop' if end else None))
      self._prompts[key] = (prompt, done + 1)
      if end:
        del self._prompts[key]
    return super().wait(min(timeout, 0.001))


class EagerSession(LosingSession):
  """Has a letter whenever it is asked for one."""
  def poll(self, *args, **kwargs):
    self.wait(0)
    return super().poll(*args, **kwargs)


class DeadSession(BufferedSession):
  """Its engine is lost before each poll; time passes while somebody waits."""
  resumes = 'exact'
  now = 0.0

  def __init__(self, name):
    super().__init__()
    self._name = name

  def _start(self, request, resume_from):
    submitted[self._name].append((self.now, request.prompt))

  def _stop(self, request_id):
    pass

  def poll(self, request_id, timeout=0.0, ready=None):
    return Delta(finish_reason='error', error='engine: gone', is_lost=True)

  def wait(self, timeout):
    DeadSession.now += 0.25


class LosingHandler(SessionModelHandler):
  def __init__(self, name, resumes='exact'):
    super().__init__()
    self._name = name
    self._resumes = resumes

  def open_session(self):
    seen[self._name].append('opened')
    session = LosingSession(self._name)
    session.resumes = self._resumes
    return session


class InBundleTestCase(unittest.TestCase):
  def setUp(self):
    self.name = self.id()
    seen.pop(self.name, None)

  def do_fn(self, handler, clock=time.monotonic, **options):
    do_fn = InBundleDoFn(
        Inputs(handler, False, {}),
        IterativeOptions(chunk_tokens=1, request_id_fn=str, **options),
        self.name,
        'here',
        clock=clock)
    do_fn.setup()
    return do_fn


class InBundleTest(InBundleTestCase):
  def test_fused_steps_see_a_token_of_each_input_before_more_are_made(self):
    inputs = ['x', 'y', 'z']
    with pipeline() as p:
      chunks = (
          p | beam.Create(inputs, reshuffle=False)
          | RunInference(
              GeneratorModelHandler(no_model, waiting, min_batch_size=3),
              inference_args={'name': self.name},
              iterative=IterativeOptions())
          | beam.ParDo(See(self.name)))
      assert_that(
          summaries(chunks),
          equal_to([(text, 'first second', 'stop') for text in inputs]))

  def test_keys_stay_with_their_inputs(self):
    # Lengths differ, so the order of ends is not that of the inputs.
    inputs = [(n, ' '.join(f'{n}' for _ in range(1 + n % 5)))
              for n in range(20)]
    for handler in (KeyedModelHandler(words_handler()),
                    MaybeKeyedModelHandler(words_handler())):
      with self.subTest(type(handler).__name__), pipeline() as p:
        texts = (
            p | beam.Create(inputs)
            | RunInference(handler, iterative=IterativeOptions(chunk_tokens=1))
            | beam.GroupByKey()
            | beam.MapTuple(lambda key, chunks: (key, summary(chunks)[1])))
        assert_that(texts, equal_to(inputs))

  def test_an_element_without_its_key(self):
    for element in ('Tell me', ('k', 'a', 'b'), None):
      with self.subTest(element), self.assertRaisesRegex(
          Exception, r'a pair \(key, example\), but got .*Give it a key'):
        with pipeline() as p:
          _ = p | beam.Create([element]) | RunInference(
              KeyedModelHandler(words_handler()), iterative=IterativeOptions())

  def test_preprocessing_comes_first(self):
    handler = words_handler().with_preprocess_fn(lambda text: text.upper())
    with pipeline() as p:
      chunks = p | beam.Create(['a b']) | RunInference(
          handler, iterative=IterativeOptions())
      assert_that(summaries(chunks), equal_to([('A B', 'A B', 'stop')]))

  def test_request_ids_are_those_of_the_function(self):
    with pipeline() as p:
      chunks = p | beam.Create([('k1', 'a b'), ('k2', 'c')]) | RunInference(
          KeyedModelHandler(words_handler()),
          iterative=IterativeOptions(request_id_fn=lambda pair: pair[0]))
      ids = chunks | beam.MapTuple(lambda _, c: c.request_id) | beam.Distinct()
      assert_that(ids, equal_to(['k1', 'k2']))

  def test_bad_request_ids_fail_their_inputs_alone(self):
    def request_id(text):
      return {'good': 'id', 'number': 3}[text]

    with pipeline() as p:
      chunks = p | beam.Create(['good', 'number', 'raises']) | RunInference(
          words_handler(), iterative=IterativeOptions(request_id_fn=request_id))
      errors = chunks | beam.Filter(lambda c: c.is_last) | beam.Map(
          lambda c: (c.example, (c.error or '')[:32]))
      assert_that(
          errors,
          equal_to([('good', ''),
                    ('number', 'invalid: request_id_fn returned '),
                    ('raises', 'invalid: request_id_fn raised Ke')]))

  def test_an_id_that_is_in_flight_is_refused(self):
    with pipeline() as p:
      chunks = p | beam.Create(['a', 'b'], reshuffle=False) | RunInference(
          words_handler(),
          iterative=IterativeOptions(request_id_fn=lambda _: 'same'))
      ends = chunks | beam.Filter(lambda c: c.is_last) | beam.Map(
          lambda c: (c.example, c.error_kind, c.request_id.partition('-')[::2]))

      def check(found):
        (first, (name, second)), = [(a[2], b[2]) for a, b in [sorted(found)]]
        assert [end[:2] for end in sorted(found)] == [('a', None),
                                                      ('b', 'duplicate')]
        # Else its chunk would be taken for one of the other.
        assert first == ('same', '') and name == 'same' and second, found

      assert_that(ends, check)

  def test_the_same_id_in_two_windows_is_two(self):
    with pipeline() as p:
      chunks = (
          p | beam.Create([('a', 1), ('b', 11)])
          | beam.MapTuple(lambda text, t: window.TimestampedValue(text, t))
          | beam.WindowInto(window.FixedWindows(10))
          | RunInference(
              LosingHandler(self.name),
              iterative=IterativeOptions(request_id_fn=lambda _: 'same')))
      ends = chunks | beam.Filter(lambda c: c.is_last) | beam.Map(
          lambda c: (c.example, c.error, c.request_id))
      assert_that(ends, equal_to([('a', None, 'same'), ('b', None, 'same')]))

  def test_two_transforms_share_a_model_and_ids(self):
    with pipeline() as p:
      inputs = p | beam.Create(['ab', 'cde'])
      chunks = [
          inputs | label >> RunInference(
              LosingHandler(self.name),
              model_identifier=self.name,
              iterative=IterativeOptions(request_id_fn=str))
          for label in ('One', 'Other')
      ]
      for i, each in enumerate(chunks):
        ends = each | f'End{i}' >> beam.Filter(lambda c: c.is_last)
        assert_that(
            ends | f'Map{i}' >> beam.Map(lambda c: (c.request_id, c.error)),
            equal_to([('ab', None), ('cde', None)]),
            label=f'check{i}')
    self.assertEqual(seen[self.name].count('opened'), 1)

  def test_a_bad_input_with_an_id_in_flight(self):
    with pipeline() as p:
      chunks = p | beam.Create(['ab', 'bad']) | RunInference(
          PickyHandler(self.name),
          iterative=IterativeOptions(request_id_fn=lambda _: 'same'))
      errors = chunks | beam.Filter(lambda c: c.error) | beam.Map(
          lambda c: (c.error, c.request_id == 'same'))
      assert_that(errors, equal_to([('invalid: it is bad', False)]))

  def test_a_bad_input_leaves_its_neighbours_alone(self):
    with pipeline() as p:
      chunks = p | beam.Create(['ab', 'bad', 'cde']) | RunInference(
          PickyHandler(self.name), iterative=IterativeOptions())
      assert_that(
          summaries(chunks),
          equal_to([('ab', 'ab', 'stop'), ('bad', '', 'error'),
                    ('cde', 'cde', 'stop')]))

  def test_windows_and_timestamps_are_those_of_the_input(self):
    class Describe(beam.DoFn):
      def process(
          self, chunk, w=beam.DoFn.WindowParam, t=beam.DoFn.TimestampParam):
        yield chunk.example, int(t), int(w.start)

    with pipeline() as p:
      described = (
          p | beam.Create([('a', 3), ('bb', 12), ('ccc', 14)])
          | beam.MapTuple(lambda text, t: window.TimestampedValue(text, t))
          | beam.WindowInto(window.FixedWindows(10))
          | RunInference(
              LosingHandler(self.name), iterative=IterativeOptions())
          | beam.Filter(lambda c: c.is_last)
          | beam.ParDo(Describe()))
      assert_that(
          described, equal_to([('a', 3, 0), ('bb', 12, 10), ('ccc', 14, 10)]))

  def test_no_more_inputs_are_in_flight_than_allowed(self):
    p = pipeline()
    chunks = p | beam.Create(['abcd' for _ in range(9)]) | RunInference(
        LosingHandler(self.name), iterative=IterativeOptions(max_in_flight=3))
    assert_that(summaries(chunks), equal_to([('abcd', 'abcd', 'stop')] * 9))
    result = p.run()
    self.assertEqual(metric(result, 'in_flight').result.max, 3)

  def test_stopping_early_stops_the_engine(self):
    with pipeline() as p:
      chunks = p | beam.Create(['abxcdefgh', 'uvw']) | RunInference(
          LosingHandler(self.name),
          iterative=IterativeOptions(
              chunk_tokens=1,
              request_id_fn=lambda text: text,
              stop_when=lambda progress: 'x' in progress.text))
      assert_that(
          summaries(chunks),
          equal_to([('abxcdefgh', 'abx', 'cancelled'), ('uvw', 'uvw', 'stop')]))
    self.assertIn('stopped abxcdefgh', seen[self.name])
    self.assertNotIn('stopped uvw', seen[self.name])

  def test_an_engine_that_dies_costs_no_token_and_doubles_none(self):
    inputs = ['abcdefgh', 'ij', 'klmnop']
    for dies_after in range(16):
      with self.subTest(dies_after=dies_after), pipeline() as p:
        LosingSession.dies_after[self.name] = dies_after
        chunks = p | beam.Create(inputs) | RunInference(
            LosingHandler(self.name),
            iterative=IterativeOptions(chunk_tokens=2))
        assert_that(
            summaries(chunks), equal_to([(t, t, 'stop') for t in inputs]))
    self.assertEqual(seen[self.name].count('died'), 16)

  def test_an_engine_that_cannot_go_on_ends_in_an_error(self):
    LosingSession.dies_after[self.name] = 3
    with pipeline() as p:
      chunks = p | beam.Create(['abcdef']) | RunInference(
          LosingHandler(self.name, resumes='none'),
          iterative=IterativeOptions(chunk_tokens=1))
      assert_that(summaries(chunks), equal_to([('abcdef', 'abc', 'error')]))

  def test_an_engine_that_is_lost_again_and_again_is_given_up(self):
    class DeadHandler(SessionModelHandler):
      def open_session(handler):
        return DeadSession(self.name)

    DeadSession.now = 0.0
    do_fn = self.do_fn(DeadHandler(), clock=lambda: DeadSession.now)
    do_fn.start_bundle()
    outputs = list(do_fn.process('abc', in_the_global_window()))
    outputs += do_fn.finish_bundle()
    chunk, = [output.value for output in outputs]
    self.assertEqual((chunk.finish_reason, chunk.error),
                     ('error', 'engine: gone'))
    # At once, and after 0.25, 0.5, ..., 8, 10 and 10 seconds.
    self.assertEqual([secs for secs, _ in submitted[self.name]],
                     [0, 0.25, 0.75, 1.75, 3.75, 7.75, 15.75, 25.75, 35.75])
    do_fn.teardown()

  def test_a_bundle_that_is_tried_again_starts_anew(self):
    # Two that have one session, as workers of a process do.
    handler = LosingHandler(self.name)
    failed, other = self.do_fn(handler), self.do_fn(handler)
    failed.start_bundle()
    for text in ('abc', 'de'):
      list(failed.process(text, in_the_global_window()))
    # The bundle fails here, and the next attempt may be sooner than its end.
    next(failed.finish_bundle())
    other.start_bundle()
    list(other.process('abc', in_the_global_window()))
    # A runner never uses it again.
    failed.teardown()
    self.assertEqual(seen[self.name][-2:], ['stopped abc', 'stopped de'])
    chunks = [output.value for output in other.finish_bundle()]
    self.assertEqual(summary(chunks), ('abc', 'abc', 'stop'))
    other.teardown()

  def test_an_input_in_two_windows_is_two(self):
    with pipeline() as p:
      chunks = (
          p | beam.Create([window.TimestampedValue('a b', 7)])
          | beam.Map(lambda value: value)
          | beam.WindowInto(window.SlidingWindows(10, 5))
          | RunInference(
              words_handler(), iterative=IterativeOptions(request_id_fn=str)))
      ends = (
          chunks | beam.Filter(lambda chunk: chunk.is_last)
          | beam.Map(
              lambda chunk, w=beam.DoFn.WindowParam:
              (float(w.start), chunk.finish_reason)))
      assert_that(ends, equal_to([(0.0, 'stop'), (5.0, 'stop')]))

  def test_an_input_in_two_windows_is_generated_for_once(self):
    for request_id_fn in (None, str):
      with self.subTest(request_id_fn), pipeline() as p:
        submitted[self.name] = []
        chunks = (
            p | beam.Create([window.TimestampedValue('abcdef', 7)])
            | beam.Map(lambda value: value)
            | beam.WindowInto(window.SlidingWindows(10, 5))
            | RunInference(
                LosingHandler(self.name),
                iterative=IterativeOptions(request_id_fn=request_id_fn)))
        texts = (
            chunks
            | beam.Map(
                lambda chunk, w=beam.DoFn.WindowParam, t=beam.DoFn.
                TimestampParam: ((float(w.start), float(t)),
                                 (chunk.index, chunk.text)))
            | 'All' >> beam.WindowInto(window.GlobalWindows())
            | beam.GroupByKey()
            | beam.MapTuple(
                lambda key, parts: (key, ''.join(t for _, t in sorted(parts)))))
        assert_that(
            texts, equal_to([((0.0, 7.0), 'abcdef'), ((5.0, 7.0), 'abcdef')]))
      self.assertEqual(submitted[self.name], ['abcdef'])


class PickyHandler(LosingHandler):
  def prompt_of(self, example):
    if example == 'bad':
      raise ValueError('it is bad')
    return example


def metric(result, name):
  found = result.metrics().query(MetricsFilter().with_name(name))
  (one, ) = [m for kind in found.values() for m in kind]
  return one


if __name__ == '__main__':
  unittest.main()
