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

"""What batches cost on a trace, by the policy that the pipeline runs.

Within a bundle: the DoFn itself, with a given cost. Under a bound of the wait:
the advisor's replay on a virtual clock. Costs are frozen at a fixed part of a
call, in tokens; so these are costs, not times.
"""

import contextlib
import csv
import io
import json
import random
from pathlib import Path

from apache_beam.transforms import window
from apache_beam.transforms.batching import BatchingOptions
from apache_beam.transforms.batching.advisor.__main__ import main as advise
from apache_beam.transforms.batching.in_bundle import LengthBatchingDoFn
from apache_beam.transforms.batching.policy.least_cost import Cost

_BATCH_SIZE = 32
# Fixed cost in tokens, speedup, and the longest wait in seconds.
_REPLAYS = ((200, 1, 1), (200, 20, 5), (2000, 20, 5), (10000, 20, 5))
# Look-ahead in batches, and the fixed cost.
_BUNDLES = ((8, 200), (8, 2000), (50, 200), (50, 2000))


def within_a_bundle(lengths: list[int]) -> list[dict]:
  """Cost over real tokens of the batches that the DoFn makes of one bundle."""
  figures = []
  for lookahead, fixed in _BUNDLES:
    cost = Cost(fixed=fixed, per_token=1)
    do_fn = LengthBatchingDoFn(
        lambda length: length, [(None, _BATCH_SIZE)],
        BatchingOptions(
            cost=cost, max_buffered_elements=lookahead * _BATCH_SIZE),
        record_metrics=False)
    do_fn.setup()
    do_fn.start_bundle()
    batches = []
    for length in lengths:
      batches += do_fn.process(length, window.GlobalWindow()) or ()
    batches += do_fn.finish_bundle()
    total = sum(cost.of(len(b.value), max(b.value)) for b in batches)
    figures.append({
        'lookahead': lookahead,
        'fixed_cost': fixed,
        'batches': len(batches),
        'cost_ratio': total / sum(lengths),
    })
  return figures


def under_a_wait(trace: Path, column: str, time_column: str) -> list[dict]:
  """The advisor's answer for each pair of a fixed cost and a wait."""
  return [_advice(trace, column, time_column, *replay) for replay in _REPLAYS]


def on_drifts(folder: Path, seed: int = 0) -> list[dict]:
  """The advisor's answer on synthetic lengths that change half-way."""
  answers = []
  for name, rows in drifts(seed).items():
    path = folder / f'{name}.csv'
    with path.open('w', newline='', encoding='utf-8') as file:
      csv.writer(file).writerows([('seconds', 'tokens'), *rows])
    answers.append({
        'drift': name, **_advice(path, 'tokens', 'seconds', 200, 1, 1)
    })
  return answers


def drifts(seed: int, count: int = 6000) -> dict[str, list[tuple[float, int]]]:
  """(seconds, length) of arrivals, 100 a second on average, by kind of drift."""
  rng = random.Random(seed)

  def times(rate=lambda i: 100.0):
    now = 0.0
    for i in range(count):
      now += rng.expovariate(rate(i))
      yield round(now, 6)

  def log_normal(median):
    return 1 + int(median * rng.lognormvariate(0, 0.8))

  half = count // 2
  doubles = [(t, log_normal(100 if i < half else 200))
             for i, t in enumerate(times())]
  trade = [(t, log_normal(40 if (rng.random() < 0.9) == (i < half) else 800))
           for i, t in enumerate(times())]
  bursts = [(t, log_normal(100))
            for t in times(lambda i: 1000.0 if i % 600 < 300 else 50.0)]
  return {'doubles': doubles, 'trade_places': trade, 'bursts': bursts}


def read_lengths(trace: Path, column: str) -> list[int]:
  with trace.open(newline='', encoding='utf-8') as file:
    return [int(row[column]) for row in csv.DictReader(file)]


def bundle_table(figures: list[dict]) -> str:
  lines = [
      '| look-ahead | fixed cost | batches | cost ratio |', '|---|---|---|---|'
  ]
  lines += [
      f"| {f['lookahead']} batches | {f['fixed_cost']:,} | {f['batches']:,} | "
      f"{f['cost_ratio']:.4f} |" for f in figures
  ]
  return '\n'.join(lines)


def replay_table(answers: list[dict]) -> str:
  names = list(answers[0]['policies'])
  lines = [
      '| lengths | fixed cost | speedup | wait | ' + ' | '.join(names) + ' |',
      '|' + '---|' * (4 + len(names))
  ]
  for answer in answers:
    ratios = [f"{p['cost_ratio']:.4f}" for p in answer['policies'].values()]
    lines.append(
        f"| {answer.get('drift', 'trace')} | {answer['fixed_cost']:,} | "
        f"{answer['speedup']} | {answer['max_wait_secs']} s | " +
        ' | '.join(ratios) + ' |')
  return '\n'.join(lines)


def _advice(path, column, time_column, fixed_cost, speedup, wait):
  out = io.StringIO()
  with contextlib.redirect_stdout(out):
    status = advise([
        str(path),
        f'--column={column}',
        f'--time_column={time_column}',
        f'--fixed_cost={fixed_cost}',
        f'--speedup={speedup}',
        f'--max_wait_secs={wait}',
        f'--max_batch_size={_BATCH_SIZE}',
        # Costs alone: of a model that is never busy.
        '--load=0',
        '--format=json'
    ])
  if status:
    raise ValueError(f'The advisor ended with {status}.')
  return {
      'fixed_cost': fixed_cost,
      'speedup': speedup,
      'max_wait_secs': wait,
      **json.loads(out.getvalue())
  }
