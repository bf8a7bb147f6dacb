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

"""Pipelines with a known outcome, and what each of them guarantees."""

import dataclasses
import functools
import time
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
from apache_beam.ml.inference.base import ModelHandler
from apache_beam.ml.inference.base import PredictionResult
from apache_beam.ml.inference.base import RunInference
from apache_beam.ml.inference.iterative import FoldToPredictionResult
from apache_beam.ml.inference.iterative import IterativeOptions
from apache_beam.testing.inference.clock_session import ClockModelHandler
from apache_beam.testing.inference.clock_session import clock_text
from apache_beam.testing.inference.clock_session import clock_token_ids
from apache_beam.testing.inference_conformance import observations
from apache_beam.transforms import window
from apache_beam.transforms.batching import BatchingOptions
from apache_beam.transforms.periodicsequence import PeriodicImpulse

BUCKETING = 'smart_bucketing'
ITERATIVE = 'iterative_inference'
COUNT = 200
MAX_BATCH_SIZE = 8
MAX_PADDED_SIZE = 400
WINDOW_SECS = 50
# In streaming: how often and for how long elements arrive, how long they may
# wait, and how much later than that the timers of a runner may fire.
TICK_SECS = 0.05
ARRIVAL_SECS = 6
WAIT_SECS = 1.0
TIMER_SECS = 2.5
# A pipeline and its workers start meanwhile.
START_SECS = 10
PROMPTS = tuple(f'prompt {i}' for i in range(8))
PROMPT_SECS = 0.5
TOKENS = 24
TOKENS_PER_SEC = 12.0


@dataclasses.dataclass(frozen=True)
class Case:
  """A pipeline with a known outcome.

  Attributes:
    guarantee: what holds if the case passes.
    experiment: what it switches on.
    build: makes a PCollection of observations in a pipeline.
    judge: counts, from the list of all observations; a count whose name begins
      with ``bad_`` is 0 if the guarantee holds, others are figures.
    needs_streaming: whether it says something only with ``--streaming``.
    metrics: names of metrics of Beam's that have to arrive and not be 0.
  """
  guarantee: str
  experiment: str
  build: Callable[[beam.Pipeline], beam.PCollection]
  judge: Callable[[Sequence[Any]], Mapping[str, int]]
  needs_streaming: bool = False
  metrics: tuple[str, ...] = ()


def length_of(element) -> int:
  return element[1]


def _length(index):
  return 1 + 37 * index % 100


def _elements(p, into=None, several_bundles=False):
  """(index, length) pairs with timestamps a second apart, in windows."""
  made = (
      p | beam.Create([None])
      | beam.FlatMap(lambda _: [(i, _length(i)) for i in range(COUNT)])
      | beam.Map(lambda pair: window.TimestampedValue(pair, pair[0]))
      | beam.WindowInto(into or window.FixedWindows(WINDOW_SECS)))
  return made | beam.Reshuffle() if several_bundles else made


class _DescribeBatch(beam.DoFn):
  def process(self, batch, window=beam.DoFn.WindowParam):
    yield [tuple(pair) for pair in batch], int(window.start)


def _batch(elements, **kwargs):
  return (
      elements
      | beam.BatchElements(
          1,
          MAX_BATCH_SIZE,
          length_fn=length_of,
          options=BatchingOptions(max_padded_size=MAX_PADDED_SIZE),
          **kwargs)
      | beam.ParDo(_DescribeBatch()))


def _in_bundle(p):
  return _batch(_elements(p))


def _across_bundles(p):
  return _batch(_elements(p, several_bundles=True), max_batch_duration_secs=60)


def _sliding(p):
  into = window.SlidingWindows(WINDOW_SECS, WINDOW_SECS // 2)
  return _batch(
      _elements(p, into, several_bundles=True), max_batch_duration_secs=60)


def _start():
  # A whole number, so that a period divides what follows exactly.
  return float(round(time.time()) + START_SECS)


class _Arrive(beam.DoFn):
  """What arrives in a tick: (index, length, when) triples."""
  def __init__(self, start: float):
    self._start = start

  def process(self, at):
    index = round((float(at) - self._start) / TICK_SECS)
    yield index, _length(index), time.time()


class _DescribeWait(beam.DoFn):
  def process(self, batch):
    now = time.time()
    yield [element[0] for element in batch], now - min(at for _, _, at in batch)


def _arrivals(p):
  start = _start()
  return (
      p | PeriodicImpulse(start, start + ARRIVAL_SECS, TICK_SECS)
      | beam.ParDo(_Arrive(start))
      | beam.WindowInto(window.FixedWindows(2, offset=start % 2))
      | beam.BatchElements(
          1,
          MAX_BATCH_SIZE,
          length_fn=length_of,
          max_batch_duration_secs=WAIT_SECS,
          options=BatchingOptions(optimize_for='cost')))


def _waits(p):
  return _arrivals(p) | beam.ParDo(_DescribeWait())


def _zero_lateness(p):
  return (
      _arrivals(p)
      | beam.FlatMap(lambda batch: [(None, index) for index, _, _ in batch])
      | beam.GroupByKey()
      | beam.MapTuple(lambda _, indices: ([*indices], 0.0)))


class _SmallMemory(ModelHandler):
  """A model that has memory for four elements."""
  def load_model(self):
    return None

  def run_inference(self, batch, model, inference_args=None):
    if len(batch) > 4:
      raise RuntimeError('CUDA out of memory.')
    return [PredictionResult(element, element[0]) for element in batch]

  def batch_elements_kwargs(self):
    return {'min_batch_size': 1, 'max_batch_size': 16, 'length_fn': length_of}


def _memory(p):
  return (
      _elements(p) | RunInference(_SmallMemory())
      | beam.Map(lambda result: ([result.inference], 0.0)))


class _NoSeven(_SmallMemory):
  """Fails for every batch with the element 7."""
  def run_inference(self, batch, model, inference_args=None):
    if any(element[0] == 7 for element in batch):
      raise ValueError('7')
    return [PredictionResult(element, element[0]) for element in batch]


def _dead_letters(p):
  good, bad = _elements(p) | RunInference(_NoSeven()).with_exception_handling(
      bisect_failed_batches=True)
  return (
      good | 'Good' >> beam.Map(lambda result: ([result.inference], 0.0)),
      bad.failed_inferences
      | 'Bad' >>
      beam.Map(lambda dead:
               ([-element[0] for element in dead[0]], 0.0))) | beam.Flatten()


def _prompts(p, bad=False):
  prompts = [*PROMPTS, 'bad'] if bad else PROMPTS
  return p | beam.Create(prompts) | 'Spread' >> beam.Reshuffle()


class _Handler(ClockModelHandler):
  """Tokens by the clock; one prompt is refused."""
  def prompt_of(self, example):
    if example == 'bad':
      raise ValueError('it is bad')
    return example


def _infer(mode, **options):
  return RunInference(
      _Handler(TOKENS, TOKENS_PER_SEC),
      iterative=IterativeOptions(
          mode=mode, chunk_secs=0.25, request_id_fn=str, **options))


class _DescribeChunk(beam.DoFn):
  def process(self, chunk):
    yield (
        chunk.request_id,
        chunk.index,
        chunk.is_last,
        chunk.text,
        chunk.error,
        time.time())


def _chunks(mode, p):
  return (
      _prompts(p, bad=True) | _infer(mode) | beam.Reshuffle()
      | beam.ParDo(_DescribeChunk()))


def _folded(mode, p):
  return (
      _prompts(p) | _infer(mode)
      | FoldToPredictionResult()
      | beam.Map(
          lambda result:
          (result.example, 0, True, result.inference.text, None, 0.0)))


def _failed_chunks(mode, p):
  good, bad = _prompts(p, bad=True) | _infer(mode).with_exception_handling()
  return (
      good | beam.Reshuffle() | beam.ParDo(_DescribeChunk()),
      bad.failed_inferences
      | beam.Map(lambda dead: (dead[0][0], 0, True, '', 'dead letter', 0.0))
  ) | beam.Flatten()


class _Prompt(beam.DoFn):
  """A prompt with the time at which it came."""
  def process(self, at):
    yield f'{float(at):.3f} {time.time():.3f}'


def _out_of_step(p):
  start = _start()
  return (
      p | PeriodicImpulse(start, start + ARRIVAL_SECS, PROMPT_SECS)
      | beam.ParDo(_Prompt())
      | _infer('durable')
      | beam.Reshuffle()
      | beam.ParDo(_DescribeChunk()))


def whole_text(prompt: str) -> str:
  return clock_text(clock_token_ids(prompt, 0, TOKENS))


_TEXTS = {prompt: whole_text(prompt) for prompt in PROMPTS}
_INDICES = range(COUNT)
_ARRIVED = range(round(ARRIVAL_SECS / TICK_SECS))
_judge_chunks = functools.partial(observations.of_chunks, texts=_TEXTS)
_batches = functools.partial(
    observations.of_batches,
    indices=_INDICES,
    max_count=MAX_BATCH_SIZE,
    max_padded_size=MAX_PADDED_SIZE)

CASES = {
    'batch-in-bundle': Case(
        'batches within a bundle: each element once, windows apart, limits kept',
        BUCKETING,
        _in_bundle,
        functools.partial(_batches, window_secs=WINDOW_SECS)),
    'batch-across-bundles': Case(
        'batches across bundles: each element once, flushed at the end of input',
        BUCKETING,
        _across_bundles,
        functools.partial(_batches, window_secs=WINDOW_SECS)),
    'batch-sliding-windows': Case(
        'sliding windows: each element once in each of its windows',
        BUCKETING,
        _sliding,
        functools.partial(_batches, window_secs=WINDOW_SECS, times=2)),
    'batch-waits': Case(
        f'no element waits for more than {WAIT_SECS:g} s and what the runner\'s '
        'timers take (--timer_secs)',
        BUCKETING,
        _waits,
        functools.partial(
            observations.of_elements,
            indices=_ARRIVED,
            most_secs=WAIT_SECS + TIMER_SECS),
        needs_streaming=True),
    'batch-zero-lateness': Case(
        'a window after batches, with no lateness allowed, drops nothing',
        BUCKETING,
        _zero_lateness,
        functools.partial(observations.of_elements, indices=_ARRIVED),
        needs_streaming=True),
    'batch-metrics': Case(
        'the metrics of batching by length arrive',
        BUCKETING,
        _in_bundle,
        functools.partial(_batches, window_secs=WINDOW_SECS),
        metrics=('real_size', 'padded_size', 'batch_size')),
    'memory': Case(
        'batches that run out of memory are split, and each element is inferred',
        BUCKETING,
        _memory,
        functools.partial(observations.of_elements, indices=_INDICES)),
    'batch-dead-letters': Case(
        'of a batch that fails the bad element alone is a dead letter',
        BUCKETING,
        _dead_letters,
        functools.partial(
            observations.of_elements,
            indices=[-i if i == 7 else i for i in _INDICES])),
}
for _mode in ('in_bundle', 'durable'):
  _name = _mode.replace('_', '-')
  CASES |= {
      f'{_name}-chunks': Case(
          f'{_mode}: each chunk once, in order, whole texts; one bad prompt '
          'harms no other',
          ITERATIVE,
          functools.partial(_chunks, _mode),
          functools.partial(_judge_chunks, failed='invalid')),
      f'{_name}-folds': Case(
          f'{_mode}: folds put texts together again after a shuffle',
          ITERATIVE,
          functools.partial(_folded, _mode),
          _judge_chunks),
      f'{_name}-metrics': Case(
          f'{_mode}: the metrics of partial results arrive',
          ITERATIVE,
          functools.partial(_folded, _mode),
          _judge_chunks,
          metrics=('chunks', 'tokens', 'ttft_msec', 'num_inferences')),
      f'{_name}-dead-letters': Case(
          f'{_mode}: a bad prompt is a dead letter, and nothing else is',
          ITERATIVE,
          functools.partial(_failed_chunks, _mode),
          functools.partial(_judge_chunks, failed='dead letter')),
  }
CASES |= {
    'durable-first-chunk': Case(
        'durable: after a shuffle the first chunk of each text is seen before '
        'the last of others',
        ITERATIVE,
        functools.partial(_chunks, 'durable'),
        functools.partial(
            _judge_chunks, failed='invalid', first_before_last=True),
        needs_streaming=True),
    'durable-out-of-step': Case(
        'durable: requests that start one after another hold up none',
        ITERATIVE,
        _out_of_step,
        functools.partial(
            observations.of_arrivals,
            count=round(ARRIVAL_SECS / PROMPT_SECS),
            text_of=whole_text,
            most_secs=TOKENS / TOKENS_PER_SEC + TIMER_SECS),
        needs_streaming=True),
}
