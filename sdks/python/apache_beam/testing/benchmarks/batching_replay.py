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
and then there are no waits. The cost is frozen at --fixed_cost. A model is stood
in for by a sleep that follows the cost; --load says which part of the time it
would be busy without padding, and it serves --model_concurrency calls at once.
--loads runs each of several loads. With --baseline each load runs four ways:
smart (optimize_for='latency'), smart_cost ('cost'), beam_default, which is 2.77's
stateful path as it is, and beam_best, the same with the batch size that a replay
on a virtual clock finds the best for its 95th percentile of the latency.

Prints a table, or with --format json the figures: of smart, with --baseline by
way, and with --loads by load.
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
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.pipeline_options import StandardOptions
from apache_beam.transforms import window
from apache_beam.transforms.batching import opt_in
from apache_beam.transforms.batching.advisor import policies
from apache_beam.transforms.batching.advisor.reading import Arrivals
from apache_beam.transforms.batching.advisor.reading import InputError
from apache_beam.transforms.batching.advisor.reading import check_numbers
from apache_beam.transforms.batching.advisor.reading import read
from apache_beam.transforms.batching.advisor.report import cells
from apache_beam.transforms.batching.figures import as_markdown
from apache_beam.transforms.batching.options import BatchingOptions
from apache_beam.transforms.batching.policy.fixed_boundaries import FixedBoundaries
from apache_beam.transforms.batching.policy.least_cost import Cost
from apache_beam.transforms.batching.policy.replay import replay
from apache_beam.transforms.periodicsequence import PeriodicImpulse
from apache_beam.utils import command_line

_TICK_SECS = 0.05
# Prism and its worker start meanwhile.
_START_SECS = 10
# Prism 2.77 splits a slow bundle and starts the rest, of the same key, before
# the first part has stored its state: elements are lost and duplicated, on 2.77's
# path too.
_EXPERIMENTS = ('--experiments=prism_disable_sdf_split', )
# Elements of the pipeline are (index, length, when it arrived) tuples.


@dataclasses.dataclass(frozen=True)
class Way:
  """How elements are batched.

  Args:
    name: of the figures.
    optimize_for: that of BatchingOptions; None: 2.77's path.
    batch_size: the one that 2.77's path fills; None: the maximum.
  """
  name: str
  optimize_for: str | None
  batch_size: int | None = None


_SMART = Way('smart', 'latency')
_WAYS = (_SMART, Way('smart_cost', 'cost'), Way('beam_default', None))
# The calls that the model of a process serves at once.
_CALLS: dict[str, threading.Semaphore] = {}


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
  def __init__(self, cost: Cost, secs_per_token: float, concurrency: int):
    self._cost = cost
    self._secs_per_token = secs_per_token
    self._concurrency = concurrency
    self._name = uuid.uuid4().hex

  def setup(self):
    # One for all instances of this DoFn in the process.
    self._calls = _CALLS.setdefault(
        self._name, threading.Semaphore(self._concurrency))

  def process(self, batch):
    longest = max(length for _, length, _ in batch)
    left = time.time()
    with self._calls:
      time.sleep(self._secs_per_token * self._cost.of(len(batch), longest))
    yield json.dumps({
        'indices': [index for index, _, _ in batch],
        'longest': longest,
        'waits': [left - arrived for _, _, arrived in batch],
        'left': left,
        'took': time.time() - left,
        'memory': 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    })


def run(
    arrivals: Arrivals, way: Way, load: float, args,
    flags: Sequence[str]) -> dict:
  """Runs one way; returns its figures, None for those that it has not."""
  smart = way.optimize_for is not None
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
        max_padded_size=args.max_padded_size,
        cost=cost,
        shards=args.shards,
        optimize_for=way.optimize_for)
  size = way.batch_size or args.max_batch_size
  secs_per_token = 0.0
  if streaming:
    secs_per_token = _model(arrivals, load, args).secs_per_cost
  with tempfile.TemporaryDirectory() as folder:
    out = os.path.join(folder, 'batches.jsonl')
    p = beam.Pipeline(options=options)
    _ = (
        _source(p, arrivals, streaming)
        | beam.BatchElements(
            max_batch_size=size,
            min_batch_size=1 if smart else size,
            max_batch_duration_secs=args.max_wait_secs,
            length_fn=lambda element: element[1],
            options=batching)
        | beam.ParDo(_Model(cost, secs_per_token, args.model_concurrency))
        | beam.WithKeys(None)
        | beam.GroupByKey()
        | beam.MapTuple(lambda _, lines: _append(out, lines)))
    result = p.run()
    result.wait_until_finish()
    with open(out, encoding='utf-8') as file:
      batches = [json.loads(line) for line in file]
  return {
      'max_batch_size': size,
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


def _loads(args) -> list[float]:
  if args.loads is None:
    return [args.load]
  try:
    loads = [float(load) for load in args.loads.split(',')]
  except ValueError as e:
    raise InputError(f'--loads={args.loads}: {e}') from e
  if min(loads) < 0:
    raise InputError(f'--loads={args.loads}: must not be negative.')
  return loads


def _beam_best(arrivals, load, args, streaming) -> Way:
  """2.77's path with the batch size of the least 95th percentile latency."""
  sizes = [2**i for i in range(args.max_batch_size.bit_length())]
  if not streaming or not load:
    return Way('beam_best', None)
  model = _model(arrivals, load, args)

  def p95(size):
    return np.percentile(
        replay(
            arrivals.lengths,
            arrivals.times,
            FixedBoundaries(policies.BEAM_DEFAULT, size),
            args.max_wait_secs,
            model).latencies,
        95)

  return Way('beam_best', None, min(sizes, key=p95))


def _model(arrivals, load, args):
  question = policies.Question(
      Cost(args.fixed_cost, 1), args.max_batch_size, load=load)
  return policies.model_of(arrivals.lengths, arrivals.times, question)


def _as_json(by_load, args) -> str:
  answer = {
      load: figures if args.baseline else figures['smart']
      for load, figures in by_load.items()
  }
  if args.loads is None:
    (answer, ) = answer.values()
  return json.dumps(answer, indent=2)


_COLUMNS = {
    'max_batch_size': ('size', 'd'),
    'elements_per_second': ('elements/s', '.1f'),
    'wait_max': ('longest wait (s)', '.2f'),
    'latency_p50': ('latency p50', '.3f'),
    'latency_p95': ('p95 (s)', '.3f'),
    'padding_ratio': ('padding ratio', '.3f'),
    'cost_ratio': ('cost ratio', '.3f'),
    'missing': ('lost', 'd'),
    'doubled': ('duplicated', 'd'),
}


def _table(by_load) -> str:
  rows = [['load', 'way', *(title for title, _ in _COLUMNS.values())]]
  for load, ways in by_load.items():
    for name, figures in ways.items():
      rows.append([load, name, *cells(figures, _COLUMNS)])
  return as_markdown(rows)


def _parser() -> argparse.ArgumentParser:
  parser = command_line.make_parser(
      'apache_beam.testing.benchmarks.batching_replay', __doc__)
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
  add('--loads', help='several, such as 0.2,0.5,0.8; each is run')
  add(
      '--model_concurrency',
      type=int,
      default=1,
      help='calls that the model serves at once')
  add('--shards', type=int, help='of BatchingOptions; one key a worker without')
  add('--elements', type=int, help='the first of the file')
  add('--baseline', action='store_true', help='run 2.77 and smart_cost too')
  add('--format', choices=('table', 'json'), default='table')
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the figures; returns 2 if the input is wrong."""
  try:
    args, flags = command_line.parse(_parser(), argv)
    streaming = PipelineOptions(flags).view_as(StandardOptions).streaming
    if streaming and args.time_column is None:
      raise InputError('--streaming needs --time_column.')
    check_numbers(
        args,
        positive=(
            *('speedup', 'max_wait_secs', 'max_batch_size'),
            *('model_concurrency', 'shards')),
        not_negative=('fixed_cost', 'load'))
    loads = _loads(args)
    arrivals = read(
        args.lengths,
        args.column,
        args.time_column,
        args.time_unit,
        args.speedup)
  except command_line.UsageError as e:
    print(f'batching_replay: {e}', file=sys.stderr)
    return 2
  if args.elements:
    arrivals = Arrivals(
        arrivals.lengths[:args.elements],
        arrivals.times and arrivals.times[:args.elements])
  by_load = {}
  for number, load in enumerate(loads):
    ways = (_SMART, )
    if args.baseline:
      ways = (*_WAYS, _beam_best(arrivals, load, args, streaming))
    by_load[f'{load:g}'] = figures = {}
    for way in ways:
      done = number * len(ways) + len(figures)
      print(
          f'batching_replay: {done} of {len(loads) * len(ways)} done, now '
          f'{way.name} at load {load:g}',
          file=sys.stderr,
          flush=True)
      figures[way.name] = run(arrivals, way, load, args, flags)
  print(_as_json(by_load, args) if args.format == 'json' else _table(by_load))
  return 0


if __name__ == '__main__':
  command_line.run(main, logging.ERROR)
