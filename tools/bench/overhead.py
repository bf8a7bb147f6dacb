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

"""What batching adds to each element, on the released SDK and on the series.

Runs the microbenchmark of batching in turn on the pristine source and on the
series.
"""

import dataclasses
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from tools import build
from tools.layout import Layout
from tools.layout import ToolError

_BENCHMARK = 'apache_beam/tools/batch_elements_microbenchmark.py'
_LINE = re.compile(r'^(\w+), .*median time cost: (\S+) sec')


@dataclasses.dataclass(frozen=True)
class Figure:
  """One benchmark on one source: microseconds per element, one a run."""
  benchmark: str
  source: str
  micros: list[float]

  def row(self, baseline: 'Figure | None') -> str:
    ratio = ''
    if baseline is not None:
      ratios = [a / b for a, b in zip(self.micros, baseline.micros)]
      ratio = f'{statistics.median(ratios):.2f}'
    return (
        f'| {self.benchmark} | {self.source} | '
        f'{statistics.median(self.micros):.2f} | {min(self.micros):.2f} to '
        f'{max(self.micros):.2f} | {ratio} |')


def run(layout: Layout, pairs: int, lengths: list[int]) -> list[Figure]:
  """Runs the pairs, released source first, on lengths drawn from those given;
  without any, on those that the microbenchmark makes up."""
  pristine = _pristine_source(layout)
  sources = {'released': pristine, 'series': layout.beam / 'sdks' / 'python'}
  options = []
  if lengths:
    drawn = layout.build / 'bench-lengths.txt'
    drawn.write_text(''.join(f'{length}\n' for length in lengths))
    options = ['--lengths', str(drawn)]
  micros: dict[tuple[str, str], list[float]] = {}
  for _ in range(pairs):
    for name, source in sources.items():
      for benchmark, value in _measure(source, options).items():
        micros.setdefault((benchmark, name), []).append(value)
  return [Figure(*key, values) for key, values in sorted(micros.items())]


def table(figures: list[Figure]) -> str:
  """A Markdown table; what only the series has is held against the released
  benchmark of the global window."""
  released = {f.benchmark: f for f in figures if f.source == 'released'}
  lines = [
      '| benchmark | source | us an element, median | spread | ratio to released |',
      '|---|---|---|---|---|'
  ]
  for figure in figures:
    baseline = released.get(figure.benchmark, released['global_window'])
    lines.append(figure.row(None if figure is baseline else baseline))
  return '\n'.join(lines)


def _pristine_source(layout: Layout) -> Path:
  """The released source with its extensions, and the benchmark put in."""
  source = build.pristine_source(layout)
  build.unpack_extensions(layout, source)
  shutil.copy(layout.beam / 'sdks' / 'python' / _BENCHMARK, source / _BENCHMARK)
  return source


def _measure(source: Path, options: list[str]) -> dict[str, float]:
  module = _BENCHMARK.removesuffix('.py').replace('/', '.')
  done = subprocess.run(
      [sys.executable, '-m', module, '--num_runs', '5', *options],
      cwd=source,
      env={
          **os.environ, 'PYTHONPATH': str(source)
      },
      capture_output=True,
      text=True,
      check=False)
  if done.returncode:
    raise ToolError(f'{module} failed in {source}:\n{done.stderr}')
  matches = map(_LINE.match, done.stdout.splitlines())
  return {m[1]: float(m[2]) * 1e6 for m in matches if m}
