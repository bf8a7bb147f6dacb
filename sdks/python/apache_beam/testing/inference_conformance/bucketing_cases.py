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

"""What batching by length guarantees."""

import functools
import time

import apache_beam as beam
from apache_beam.ml.inference.base import ModelHandler
from apache_beam.ml.inference.base import PredictionResult
from apache_beam.ml.inference.base import RunInference
from apache_beam.testing.inference_conformance import case
from apache_beam.testing.inference_conformance import observations
from apache_beam.testing.inference_conformance.case import Case
from apache_beam.transforms import window
from apache_beam.transforms.batching import BatchingOptions
from apache_beam.transforms.periodicsequence import PeriodicImpulse

BUCKETING = 'smart_bucketing'
COUNT = 200
MAX_BATCH_SIZE = 8
MAX_PADDED_SIZE = 400
WINDOW_SECS = 50
# In streaming: how often elements arrive, and how long they may wait.
TICK_SECS = 0.05
WAIT_SECS = 1.0


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
  start = case.start()
  return (
      p | PeriodicImpulse(start, start + case.ARRIVAL_SECS, TICK_SECS)
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


_INDICES = range(COUNT)
_ARRIVED = range(round(case.ARRIVAL_SECS / TICK_SECS))
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
            most_secs=WAIT_SECS + case.TIMER_SECS),
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
