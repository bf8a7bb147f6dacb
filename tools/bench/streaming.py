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

"""A real model in streaming: MiniLM-L6 on Prism embeds docstrings that arrive at
random, at 50 and 80 % of what 2.77's stateful path embeds there when all come at
once.

Each run is a process of its own. A latency is the whole time of a text, from its
arrival to its embedding.
"""

import dataclasses
import json
import random
import statistics
import subprocess
import sys
import time
from itertools import accumulate
from pathlib import Path

import numpy as np

import apache_beam as beam
from apache_beam.examples.inference import bucketed_text_embeddings as example
from apache_beam.ml.inference.base import RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import window
from apache_beam.transforms.batching import BatchingOptions
from apache_beam.transforms.periodicsequence import PeriodicImpulse
from tools.layout import Layout
from tools.layout import ToolError

MAX_WAIT_SECS = 2.0
_LOADS = (0.5, 0.8)
_FLAG = '--experiments=smart_bucketing'
# Its flags, and BatchingOptions(optimize_for=...), of each way.
_WAYS = {
    '2.77': ((), None),
    'flag on': ((_FLAG, ), 'latency'),
    'flag on, cost': ((_FLAG, ), 'cost')
}
_TICK_SECS = 0.05
# Texts a second.
_AT_ONCE = 1e6
# Prism, its worker and the model start meanwhile.
_START_SECS = 20


@dataclasses.dataclass(frozen=True)
class Figure:
  """One run: seconds from the first arrival to the last embedding, latencies."""
  way: str
  rate: float
  texts: int
  seconds: float
  p50: float
  p95: float
  longest: float


def run(layout: Layout, texts: Path, pairs: int) -> list[Figure]:
  """The runs, each with the texts per second at which texts arrived.

  Raises:
    ToolError: if a run fails or loses texts.
  """
  capacity = _run_one(layout, texts, '2.77', _AT_ONCE)
  figures = []
  for load in _LOADS:
    rate = load * capacity.texts / capacity.seconds
    for _ in range(pairs):
      for way in _WAYS:
        figures.append(_run_one(layout, texts, way, rate))
        print(f'  {figures[-1]}', flush=True)
  return figures


def _run_one(layout, texts, way, rate):
  out = layout.build / 'bench-streaming.jsonl'
  out.unlink(missing_ok=True)
  flags, optimize_for = _WAYS[way]
  done = subprocess.run([
      sys.executable,
      '-m',
      __spec__.name,
      texts,
      out,
      str(rate),
      json.dumps(optimize_for),
      '--runner=PrismRunner',
      f'--prism_location={layout.build / "bin" / "prism"}',
      '--experiments=prism_disable_sdf_split',
      '--streaming',
      *flags
  ],
                        cwd=layout.root,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        text=True,
                        check=False)
  if done.returncode:
    raise ToolError(f'{way} failed:\n{done.stdout[-4000:]}')
  rows = [json.loads(line) for line in out.read_text().splitlines()]
  count = len(texts.read_text().splitlines())
  if sorted(i for i, _, _ in rows) != list(range(count)):
    raise ToolError(f'{way}: {len(rows)} embeddings of {count} texts.')
  latencies = [done - came for _, came, done in rows]
  p50, p95, longest = np.percentile(latencies, [50, 95, 100]).tolist()
  seconds = max(row[2] for row in rows) - min(row[1] for row in rows)
  return Figure(way, rate, count, seconds, p50, p95, longest)


def table(figures: list[Figure]) -> str:
  """Medians over the runs, with the spread of the p95."""
  lines = [
      '| arrivals/s | way | texts/s | latency p50, s | p95, s | spread | '
      'longest, s |',
      '|---|---|---|---|---|---|---|'
  ]
  for rate in sorted({f.rate for f in figures}):
    lines += [
        _row(rate, way, [f for f in figures if (f.rate, f.way) == (rate, way)])
        for way in _WAYS
    ]
  return '\n'.join(lines) + (
      f'\n\n{figures[0].texts} texts a run; '
      f'max_batch_duration_secs={MAX_WAIT_SECS:g}, max_batch_size=32.')


def _row(rate, way, figures):
  def middle(value):
    return statistics.median(value(f) for f in figures)

  p95s = [f.p95 for f in figures]
  return (
      f'| {rate:.1f} | {way} | {middle(lambda f: f.texts / f.seconds):.1f} | '
      f'{middle(lambda f: f.p50):.2f} | {middle(lambda f: f.p95):.2f} | '
      f'{min(p95s):.2f} to {max(p95s):.2f} | '
      f'{middle(lambda f: f.longest):.2f} |')


class _Arrive(beam.DoFn):
  """Emits records of texts that arrive in a tick."""
  def __init__(self, records, times, start):
    self._records, self._times, self._start = records, times, start

  def process(self, at):
    tick = round((float(at) - self._start) / _TICK_SECS)
    first, last = np.searchsorted(
        self._times, [tick * _TICK_SECS, (tick + 1) * _TICK_SECS])
    now = time.time()
    for index in range(first, last):
      yield {**self._records[index], 'came': now}


def _append(path, rows):
  with open(path, 'a', encoding='utf-8') as file:
    file.writelines(json.dumps(row) + '\n' for row in rows)


def _pipeline(texts, out, rate, optimize_for, flags):
  with open(texts, encoding='utf-8') as file:
    records = [json.loads(line) for line in file]
  gaps = random.Random(0)
  times = [*accumulate(gaps.expovariate(rate) for _ in records)]
  handler = example.make_model_handler(
      example.default_model(), 32, max_batch_duration_secs=MAX_WAIT_SECS)
  options = optimize_for and BatchingOptions(optimize_for=optimize_for)
  start = time.time() + _START_SECS
  stop = start + times[-1] + 2 * _TICK_SECS
  with beam.Pipeline(options=PipelineOptions(flags)) as p:
    _ = (
        p | PeriodicImpulse(start, stop, _TICK_SECS)
        | beam.ParDo(_Arrive(records, times, start))
        # One window for all, that ends with the input.
        | beam.WindowInto(window.FixedWindows(10**8, start))
        | RunInference(handler, batching_options=options)
        | beam.Map(lambda r: (None, (r['id'], r['came'], time.time())))
        | beam.GroupByKey()
        | beam.MapTuple(lambda _, rows: _append(out, rows)))


if __name__ == '__main__':
  _pipeline(*sys.argv[1:3], *map(json.loads, sys.argv[3:5]), sys.argv[5:])
