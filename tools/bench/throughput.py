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

"""Elements per second end to end, and how the worker's memory grows, against
2.77's stateful path.

Small elements, (index, length) pairs, go through a model that does nothing. Each
run is a process of its own, which is the worker too; the clock starts with the
first element and stops when the pipeline has ended.
"""

import dataclasses
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from tools.layout import Layout
from tools.layout import ToolError

_RUNNERS = ('FnApiRunner', 'PrismRunner')
_WAYS = ('2.77', 'flag on')
_BATCH_SIZE = 32
_PAGE = resource.getpagesize()


@dataclasses.dataclass(frozen=True)
class Figure:
  """What one run gave; memory in bytes, where half and all have left."""
  runner: str
  way: str
  seconds: float
  cpu_seconds: float
  elements: int
  padding_ratio: float
  memory_half: int
  memory_end: int

  @property
  def rate(self) -> float:
    return self.elements / self.seconds

  @property
  def growth(self) -> float:
    return self.memory_end / self.memory_half - 1


def run(layout: Layout, lengths: list[int], count: int, pairs: int):
  """Runs the ways in turn on as many elements, lengths drawn from those given.

  Raises:
    ToolError: if a run fails or loses elements.
  """
  drawn = layout.build / 'bench-drawn.json'
  drawn.write_text(json.dumps(random.Random(0).choices(lengths, k=count)))
  figures = []
  for _ in range(pairs):
    for runner in _RUNNERS:
      for way in _WAYS:
        figures.append(_run_one(layout, drawn, runner, way))
        print(
            f'  {runner}, {way}: {figures[-1].rate:,.0f} elements/s',
            flush=True)
  return figures


def _run_one(layout, drawn, runner, way):
  flags = [f'--runner={runner}']
  if runner == 'PrismRunner':
    flags += [
        f'--prism_location={layout.build / "bin" / "prism"}',
        '--experiments=prism_disable_sdf_split'
    ]
  done = subprocess.run(
      [sys.executable, '-m', __spec__.name, drawn, way, *flags],
      cwd=layout.root,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      check=False)
  if done.returncode:
    raise ToolError(f'{runner}, {way} failed:\n{done.stderr[-4000:]}')
  return Figure(runner, way, **json.loads(done.stdout.splitlines()[-1]))


def table(figures: list[Figure]) -> str:
  """Medians with their spread, and the flag's ratio to 2.77 by pairs."""
  lines = [
      '| runner | way | elements/s, median | spread | CPU, us an element | '
      'ratio by pairs: elements/s | CPU | padding ratio | memory at half, at '
      'the end | growth |',
      '|---|---|---|---|---|---|---|---|---|---|'
  ]
  for runner in _RUNNERS:
    base, smart = ([f for f in figures if (f.runner, f.way) == (runner, way)]
                   for way in _WAYS)
    for some in (base, smart):
      rates = [f.rate for f in some]
      cpu = statistics.median(1e6 * f.cpu_seconds / f.elements for f in some)
      ratio = statistics.median(f.rate / b.rate for f, b in zip(some, base))
      by_cpu = statistics.median(
          b.cpu_seconds / f.cpu_seconds for f, b in zip(some, base))
      last = some[-1]
      lines.append(
          f'| {runner} | {last.way} | {statistics.median(rates):,.0f} | '
          f'{min(rates):,.0f} to {max(rates):,.0f} | {cpu:.1f} | {ratio:.2f} | '
          f'{by_cpu:.2f} | {last.padding_ratio:.3f} | '
          f'{last.memory_half >> 20} MiB, {last.memory_end >> 20} MiB | '
          f'{statistics.median(f.growth for f in some):.1%} |')
  return '\n'.join(lines)


class _Source(beam.DoFn):
  def __init__(self, drawn: str, started: str):
    self._drawn, self._started = drawn, started

  def process(self, _):
    lengths = json.loads(Path(self._drawn).read_text())
    Path(self._started).write_text(f'{time.time()} {time.process_time()}')
    yield from enumerate(lengths)


class _Model(beam.DoFn):
  """Does nothing; tells what left and the memory, seldom."""
  def setup(self):
    self._left = 0

  def process(self, batch):
    before, self._left = self._left, self._left + len(batch)
    memory = 0
    if before // 1000 < self._left // 1000:
      pages = Path('/proc/self/statm').read_text().split()[1]
      memory = int(pages) * _PAGE
    lengths = [length for _, length in batch]
    yield len(batch), sum(lengths), max(lengths) * len(batch), self._left, memory


def _pipeline(drawn, way, flags):
  smart = way != _WAYS[0]
  if smart:
    flags = [*flags, '--experiments=smart_bucketing']
  started, out = f'{drawn}.started', f'{drawn}.out'
  p = beam.Pipeline(options=PipelineOptions(flags))
  _ = (
      p | beam.Create([None])
      | beam.ParDo(_Source(drawn, started)) | beam.Reshuffle()
      | beam.BatchElements(
          min_batch_size=1 if smart else _BATCH_SIZE,
          max_batch_size=_BATCH_SIZE,
          max_batch_duration_secs=60,
          length_fn=lambda element: element[1])
      | beam.ParDo(_Model())
      | beam.WithKeys(None) | beam.GroupByKey()
      | beam.MapTuple(
          lambda _, left: Path(out).write_text(json.dumps(list(left)))))
  p.run().wait_until_finish()
  seconds, cpu = time.time(), time.process_time()
  start, cpu_start = map(float, Path(started).read_text().split())
  left = json.loads(Path(out).read_text())
  for path in (started, out):
    os.remove(path)
  count = sum(row[0] for row in left)
  memory = sorted(row[3:] for row in left if row[4])
  return {
      'seconds': seconds - start,
      'cpu_seconds': cpu - cpu_start,
      'elements': count,
      'padding_ratio': sum(row[2]
                           for row in left) / sum(row[1] for row in left),
      'memory_half': next(m for at, m in memory if at >= count / 2),
      'memory_end': memory[-1][1],
  }


if __name__ == '__main__':
  print(json.dumps(_pipeline(sys.argv[1], sys.argv[2], sys.argv[3:])))
