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

"""Replays a file of arrivals through the stateful BatchElements of a runner.

    python -m apache_beam.testing.benchmarks.batching_replay trace.csv \\
        --column ContextTokens --time_column TIMESTAMP --speedup 20 \\
        --max_wait_secs 5 --runner=PrismRunner --streaming [--baseline]

With --streaming each element arrives when the file says, otherwise all at once,
and then there are no waits. The cost is frozen at --fixed_cost, so the advisor
predicts the cost_ratio. A model is stood in for by a sleep that follows the
cost; --load says which part of the time it would be busy without padding.
Prints one JSON object; with --baseline one for each way: smart, which fills
batches, smart_hurried, which does not wait for that, and beam_default, 2.77's
stateful path with its default boundaries.
"""

# pytype: skip-file

import argparse
import dataclasses
import json
import logging
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.pipeline_options import StandardOptions
from apache_beam.transforms import window
from apache_beam.transforms.batching import opt_in
from apache_beam.transforms.batching.advisor.reading import Arrivals
from apache_beam.transforms.batching.advisor.reading import InputError
from apache_beam.transforms.batching.advisor.reading import check_numbers
from apache_beam.transforms.batching.advisor.reading import read
from apache_beam.transforms.batching.least_cost import Cost
from apache_beam.transforms.batching.options import BatchingOptions
from apache_beam.transforms.periodicsequence import PeriodicImpulse

_TICK_SECS = 0.05
# Prism and its worker start meanwhile.
_START_SECS = 10
# Prism 2.77 splits a slow bundle and starts the rest, of the same key, before
# the first part has stored its state: elements are lost and doubled, on 2.77's
# path too.
_EXPERIMENTS = ('--experiments=prism_disable_sdf_split', )
# Elements of the pipeline are (index, length, when it arrived) tuples.


@dataclasses.dataclass(frozen=True)
class Way:
  """How elements are batched; hurry is None for 2.77's path."""
  name: str
  hurry: float | None


_SMART = Way('smart', 0.0)
_WAYS = (_SMART, Way('smart_hurried', 1.0), Way('beam_default', None))


class _Arrive(beam.DoFn):
  """Emits what arrives in a tick."""
  def __init__(self, arrivals: Arrivals, start: float):
    self._lengths = arrivals.lengths
    self._times = arrivals.times
    self._start = start

  def process(self, at):
    tick = round((float(at) - self._start) / _TICK_SECS)
    first, last = np.searchsorted(
        self._times, [tick * _TICK_SECS, (tick + 1) * _TICK_SECS])
    now = time.time()
    for index in range(first, last):
      yield index, self._lengths[index], now


class _Model(beam.DoFn):
  """Takes as long as the cost of a batch says; describes it as JSON."""
  def __init__(self, cost: Cost, secs_per_token: float):
    self._cost = cost
    self._secs_per_token = secs_per_token

  def process(self, batch):
    longest = max(length for _, length, _ in batch)
    left = time.time()
    time.sleep(self._secs_per_token * self._cost.of(len(batch), longest))
    yield json.dumps({
        'indices': [index for index, _, _ in batch],
        'longest': longest,
        'waits': [left - arrived for _, _, arrived in batch],
        'left': left,
        'took': time.time() - left,
        'memory': 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    })


def run(arrivals: Arrivals, way: Way, args, flags: Sequence[str]) -> dict:
  """Runs one way; returns its figures, None for those that it has not."""
  smart = way.hurry is not None
  options = PipelineOptions([
      *flags,
      *_EXPERIMENTS,
      *([f'--experiments={opt_in.EXPERIMENT}'] if smart else [])
  ])
  streaming = options.view_as(StandardOptions).streaming
  cost = Cost(args.fixed_cost, 1)
  batching = None
  if smart:
    batching = BatchingOptions(
        max_padded_size=args.max_padded_size, cost=cost, hurry=way.hurry)
  secs_per_token = 0.0
  if streaming:
    secs_per_token = args.load * arrivals.times[-1] / sum(arrivals.lengths)
  with tempfile.TemporaryDirectory() as folder:
    out = os.path.join(folder, 'batches.jsonl')
    p = beam.Pipeline(options=options)
    _ = (
        _source(p, arrivals, streaming)
        | beam.BatchElements(
            max_batch_size=args.max_batch_size,
            min_batch_size=1 if smart else args.max_batch_size,
            max_batch_duration_secs=args.max_wait_secs,
            length_fn=lambda element: element[1],
            options=batching)
        | beam.ParDo(_Model(cost, secs_per_token))
        | beam.WithKeys(None)
        | beam.GroupByKey()
        | beam.MapTuple(lambda _, lines: _append(out, lines)))
    result = p.run()
    result.wait_until_finish()
    with open(out, encoding='utf-8') as file:
      batches = [json.loads(line) for line in file]
  return {
      **_figures(arrivals, batches, args.fixed_cost, streaming),
      'state_reads_per_element': _reads(result, len(arrivals.lengths))
      if smart else None,
  }


def _source(p, arrivals, streaming):
  if streaming:
    start = time.time() + _START_SECS
    stop = start + arrivals.times[-1] + 2 * _TICK_SECS
    return (
        p | PeriodicImpulse(start, stop, _TICK_SECS)
        | beam.ParDo(_Arrive(arrivals, start))
        # One window for all, that ends with the input.
        | beam.WindowInto(window.FixedWindows(10**8, start)))
  elements = [(i, length, 0.0) for i, length in enumerate(arrivals.lengths)]
  return (
      p | beam.Create([None])
      | 'All' >> beam.FlatMap(lambda _: elements) | beam.Reshuffle())


def _append(path, lines):
  with open(path, 'a', encoding='utf-8') as file:
    file.writelines(line + '\n' for line in lines)


def _reads(result, elements):
  """None where the runner tells no metrics."""
  counters = result.metrics().query()['counters']
  read_counts = [
      counter.result for counter in counters
      if counter.key.metric.name == 'elements_read_from_state'
  ]
  return sum(read_counts) / elements if counters else None


def _figures(arrivals, batches, fixed_cost, streaming):
  counts = np.bincount([i for b in batches for i in b['indices']],
                       minlength=len(arrivals.lengths))
  padded = sum(b['longest'] * len(b['indices']) for b in batches)
  real = sum(arrivals.lengths[i] for b in batches for i in b['indices'])
  waits = [wait for b in batches for wait in b['waits']]
  latencies = [wait + b['took'] for b in batches for wait in b['waits']]
  span = max(b['left'] + b['took'] for b in batches) - min(
      b['left'] - (max(b['waits']) if streaming else 0) for b in batches)

  def percentile(values, part):
    return float(np.percentile(values, part)) if streaming else None

  return {
      'elements_in': len(arrivals.lengths),
      'elements_out': int(counts.sum()),
      'missing': int((counts == 0).sum()),
      'doubled': int((counts > 1).sum()),
      'padding_ratio': padded / real,
      'cost_ratio': (padded + fixed_cost * len(batches)) / real,
      'wait_p50': percentile(waits, 50),
      'wait_p95': percentile(waits, 95),
      'wait_max': percentile(waits, 100),
      'latency_p50': percentile(latencies, 50),
      'latency_p95': percentile(latencies, 95),
      'elements_per_second': int(counts.sum()) / max(span, 1e-9),
      'peak_memory_bytes': max(b['memory'] for b in batches),
  }


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
      prog='python -m apache_beam.testing.benchmarks.batching_replay',
      description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  add = parser.add_argument
  add('lengths', type=Path, help='a .csv, .jsonl or .parquet file')
  add('--column', required=True, help='of the lengths')
  add('--time_column', help='when each arrives; needed with --streaming')
  add('--time_unit', choices=('s', 'ms'), default='s', help='of numbers')
  add('--speedup', type=float, default=1.0, help='divides the times')
  add('--max_wait_secs', type=float, default=5.0)
  add('--max_batch_size', type=int, default=32)
  add('--max_padded_size', type=int, help='longest times count')
  add('--fixed_cost', type=float, default=200, help='of a call, in tokens')
  add('--load', type=float, default=0.1, help='of the model, from 0 to 1')
  add('--elements', type=int, help='the first of the file')
  add('--baseline', action='store_true', help='run 2.77 and both ends too')
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the figures; returns 2 if the input is wrong."""
  args, flags = _parser().parse_known_args(argv)
  try:
    streaming = PipelineOptions(flags).view_as(StandardOptions).streaming
    if streaming and args.time_column is None:
      raise InputError('--streaming needs --time_column.')
    check_numbers(
        args,
        positive=('speedup', 'max_wait_secs', 'max_batch_size'),
        not_negative=('fixed_cost', 'load'))
    arrivals = read(
        args.lengths,
        args.column,
        args.time_column,
        args.time_unit,
        args.speedup)
  except InputError as e:
    print(f'batching_replay: {e}', file=sys.stderr)
    return 2
  if args.elements:
    arrivals = Arrivals(
        arrivals.lengths[:args.elements],
        arrivals.times and arrivals.times[:args.elements])
  ways = _WAYS if args.baseline else (_SMART, )
  figures = {way.name: run(arrivals, way, args, flags) for way in ways}
  print(json.dumps(figures if args.baseline else figures['smart'], indent=2))
  return 0


if __name__ == '__main__':
  logging.getLogger().setLevel(logging.ERROR)
  sys.exit(main())
