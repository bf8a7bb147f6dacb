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

"""Faults and load, counted; `make soak` runs it.

    build/venv/bin/python -m tests.faults_soak [case ...] [--trickle_secs 3600]

Not collected by pytest: it takes up to two hours. The end is a table of counts;
the status is the number of cases that are wrong.
"""

import argparse
import base64
import collections
import json
import logging
import math
import os
import pickle
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from hypothesis import HealthCheck
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from tools.layout import here

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference
from apache_beam.ml.inference.iterative.chunk import Chunk
from apache_beam.ml.inference.iterative.emitted import Emitted
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.inference.clock_session import ClockModelHandler
from apache_beam.testing.inference.clock_session import clock_token_ids
from apache_beam.transforms import window
from apache_beam.transforms.batching import stateful_state_test
from apache_beam.transforms.batching.options import BatchingOptions
from apache_beam.transforms.periodicsequence import PeriodicImpulse

_LAYOUT = here()
_ON_PRISM = (
    '--runner=PrismRunner',
    f'--prism_location={_LAYOUT.build / "bin" / "prism"}')
# A worker that is a process of its own, which can be killed.
_WORKER_PROCESS = '--experiments=use_loopback_process_worker=true'
_TWO_PROCESSES = (
    '--runner=FnApiRunner',
    '--direct_num_workers=2',
    '--direct_running_mode=multi_processing')
_ITERATIVE = '--experiments=iterative_inference'
_PROMPTS, _TOKENS, _RATE = [f'prompt {i}' for i in range(20)], 64, 20
# The bounds of a worker with 10,000 requests in flight, against the bare client.
_MOST_BYTES, _MOST_TIMES_BARE = 60e6, 1.4
# The bounds of a worker that gets a request a second.
_MOST_CORES, _MOST_GROWTH_BYTES = 0.05, 10e6

Counts = collections.Counter | dict


def _start(job: Callable, log: Path, *arguments) -> subprocess.Popen:
  """A job of this module in a process of its own."""
  code = (
      'import sys; from tests import faults_soak; '
      f'faults_soak.{job.__name__}(*sys.argv[1:])')
  environment = {
      **os.environ,  # Worker processes are the `python` that is found first.
      'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}',
      'PYTHONPATH': os.pathsep.join([str(_LAYOUT.root), *sys.path[1:]]),
  }
  with log.open('w') as file:
    return subprocess.Popen([sys.executable, '-c', code, *map(str, arguments)],
                            stdout=file,
                            stderr=subprocess.STDOUT,
                            env=environment,
                            start_new_session=True)


def _workers(job: subprocess.Popen) -> list[psutil.Process]:
  """The processes of a job that run bundles."""
  found = []
  for child in psutil.Process(job.pid).children(recursive=True):
    try:
      line = ' '.join(child.cmdline())
    except psutil.Error:
      continue
    is_worker = 'import SdkHarness' in line or 'sdk_worker_main' in line
    # Not the shell that waits for one.
    if is_worker and child.name().startswith('python'):
      found.append(child)
  return found


def _keep(folder: str, run: str, chunk: Chunk) -> None:
  with open(f'{folder}/{run}-{os.getpid()}', 'ab') as file:
    file.write(base64.b64encode(pickle.dumps(chunk)) + b'\n')


def _kept(folder: Path, runs: int) -> dict[str, list[Chunk]]:
  """The chunks of each prompt that jobs kept, before the first one missing."""
  kept = collections.defaultdict(list)
  for run in range(runs):
    found = collections.defaultdict(dict)
    for path in folder.glob(f'{run}-*'):
      # What a worker was writing when it was killed has no end.
      for line in path.read_bytes().split(b'\n')[:-1]:
        chunk = pickle.loads(base64.b64decode(line))
        found[chunk.request_id][chunk.index] = chunk
    for prompt, chunks in found.items():
      while len(kept[prompt]) in chunks:
        kept[prompt].append(chunks[len(kept[prompt])])
  return kept


def generate(folder: str, run: str, *flags: str) -> None:
  """A job that goes on after what earlier runs have kept."""
  kept = _kept(Path(folder), int(run))
  emitted = {prompt: Emitted.of(chunks) for prompt, chunks in kept.items()}
  with beam.Pipeline(options=PipelineOptions([*flags, _ITERATIVE])) as p:
    _ = (
        p | beam.Create(_PROMPTS) | beam.Reshuffle()
        | RunInference(
            ClockModelHandler(_TOKENS, _RATE),
            iterative=IterativeOptions(
                mode='durable', request_id_fn=str, emitted_fn=emitted.get))
        | beam.Map(lambda chunk: _keep(folder, run, chunk)))


def _killed_workers(folder: Path, kills: int, *flags: str) -> Counts:
  """Kills a worker of each job, each at a later time, then runs one to its end."""
  counts = collections.Counter()
  kept = folder / 'kept'
  kept.mkdir()
  for run in range(kills + 1):
    job = _start(generate, folder / f'{run}.log', kept, run, *flags)
    if run < kills:
      while job.poll() is None and not any(kept.glob(f'{run}-*')):
        time.sleep(0.02)
      time.sleep(0.1 * run)
      if job.poll() is None:
        for worker in _workers(job)[:1]:
          worker.kill()
          counts['workers killed'] += 1
    try:
      job.wait(120)
    except subprocess.TimeoutExpired:
      counts['jobs that hang'] += 1
      # With its workers.
      os.killpg(job.pid, signal.SIGKILL)
      job.wait()
    counts['jobs that end in an error'] += job.returncode != 0
  chunks = _kept(kept, kills + 1)
  for prompt in _PROMPTS:
    made = chunks[prompt]
    ids = tuple(i for chunk in made for i in chunk.token_ids)
    is_whole = made and made[-1].is_last and (
        ids == clock_token_ids(prompt, 0, _TOKENS))
    counts['texts whole' if is_whole else 'texts not whole'] += 1
  return counts


def killed_on_fn_api_runner(folder: Path, args) -> tuple[Counts, bool]:
  """A worker of two is killed; the job fails, and the next goes on."""
  counts = _killed_workers(folder, args.kills, *_TWO_PROCESSES)
  return counts, _is_killed_right(counts, args.kills)


def killed_on_prism(folder: Path, args) -> tuple[Counts, bool]:
  """The worker is killed; the job fails, and the next goes on."""
  counts = _killed_workers(folder, args.kills, *_ON_PRISM, _WORKER_PROCESS)
  return counts, _is_killed_right(counts, args.kills)


def _is_killed_right(counts, kills):
  return (
      counts['texts whole'] == len(_PROMPTS) and
      counts['workers killed'] > 0 and not counts['jobs that hang'] and
      counts['jobs that end in an error'] <= counts['workers killed'] <= kills)


def failed_bundles(folder: Path, args) -> tuple[Counts, bool]:
  """Bundles fail and run again, clocks are set back, timers fire for nothing.

  The machines check after each step that every element is in state or was
  emitted, once, and that nothing stays in state.
  """
  counts = collections.Counter()

  def counted(machine):
    class Counted(machine):
      def _runs(self, bundle, fails):
        counts['bundles'] += 1
        counts['bundles failed'] += fails
        super()._runs(bundle, fails)

      def teardown(self):
        counts['examples'] += 1
        counts['elements'] += len(self.arrived)
        counts['seconds clocks were set back'] += self.set_back
        super().teardown()

    Counted.__name__ = machine.__name__
    return Counted

  for machine in (stateful_state_test.BufferMachine,
                  stateful_state_test.WorkConservingMachine):
    run_state_machine_as_test(
        counted(machine),
        settings=settings(
            max_examples=args.examples,
            stateful_step_count=50,
            deadline=None,
            database=None,
            suppress_health_check=[*HealthCheck]))
  return counts, counts['bundles failed'] > 0


def many_windows(folder: Path, args) -> tuple[Counts, bool]:
  """A million elements in ten thousand windows, batched across bundles."""
  windows, elements = 10_000, args.elements
  out = folder / 'sums'
  options = PipelineOptions(
      ['--runner=FnApiRunner', '--experiments=smart_bucketing'])
  with beam.Pipeline(options=options) as p:
    _ = (
        p | beam.Create([None])
        | beam.FlatMap(lambda _: range(elements))
        |
        beam.Map(lambda i: window.TimestampedValue(i, i * windows / elements))
        | beam.WindowInto(window.FixedWindows(1))
        | beam.BatchElements(
            max_batch_size=64,
            length_fn=lambda i: 1 + i % 97,
            max_batch_duration_secs=3600,
            options=BatchingOptions(optimize_for='cost'))
        | 'Sums' >> beam.Map(lambda batch: (len(batch), 1, sum(batch)))
        | 'All' >> beam.WindowInto(window.GlobalWindows())
        | beam.CombineGlobally(
            lambda rows: tuple(map(sum, zip(*rows))) or
            (0, 0, 0)).without_defaults()
        | 'Write' >> beam.Map(json.dumps)
        | beam.io.WriteToText(str(out), num_shards=1, shard_name_template=''))
  found, batches, total = json.loads(out.read_text())
  counts = {'elements': found, 'batches': batches, 'windows': windows}
  return counts, (found, total) == (elements, elements * (elements - 1) // 2)


def in_flight(folder: Path, args) -> tuple[Counts, bool]:
  """10,000 requests at once through Prism, against the same without Beam."""
  done = subprocess.run([
      *(sys.executable, '-m'),
      'apache_beam.testing.benchmarks.iterative_inference_benchmark',
      *('--handler=clock', f'--prompts={args.requests}'),
      *('--ways', 'bare', 'durable', '--rounds', '3', *_ON_PRISM)
  ],
                        stdout=subprocess.PIPE,
                        text=True,
                        check=True)
  figures = json.loads(done.stdout)
  counts = {
      'requests': args.requests,
      'lost or duplicated': figures['missing'] + figures['doubled'],
      'times of the bare client': round(
          figures['against']['durable']['total_over_bare'], 2),
      'memory grown MB': round(
          figures['counts']['durable']['worker_grown_bytes'] / 1e6, 1),
  }
  return counts, (
      not counts['lost or duplicated'] and
      counts['memory grown MB'] * 1e6 <= _MOST_BYTES and
      counts['times of the bare client'] <= _MOST_TIMES_BARE)


def one_a_second(out: str, secs: str, *flags: str) -> None:
  """A job that gets a request a second, and writes when each chunk came."""
  def write(chunk):
    with open(out, 'a', encoding='utf-8') as file:
      file.write(
          json.dumps([chunk.request_id, chunk.index, chunk.is_last]) + '\n')

  # When the runner and the worker have started.
  start = time.time() + 20
  with beam.Pipeline(options=PipelineOptions([*flags, _ITERATIVE])) as p:
    _ = (
        p | PeriodicImpulse(start, start + float(secs) - 0.5, 1)
        | beam.Map(lambda at: f'{float(at) - start:.0f}')
        | RunInference(
            ClockModelHandler(20, _RATE),
            iterative=IterativeOptions(mode='durable', request_id_fn=str))
        | beam.Map(write))


def trickle(folder: Path, args) -> tuple[Counts, bool]:
  """A request a second for an hour: memory and processor of the worker."""
  out = folder / 'chunks.jsonl'
  job = _start(
      one_a_second,
      folder / 'log',
      out,
      args.trickle_secs,
      *_ON_PRISM,
      '--streaming',
      _WORKER_PROCESS)
  rows, began, cpu, since, cores = [], None, 0.0, 0.0, math.inf
  # Measured once it has settled, and until the last request.
  settled = min(60, args.trickle_secs / 4)
  while job.poll() is None:
    time.sleep(1)
    if began is None:
      began = time.monotonic() if out.exists() else None
      continue
    running = time.monotonic() - began
    if not settled < running < args.trickle_secs:
      continue
    try:
      worker, = _workers(job)
      times = worker.cpu_times()
      now = times.user + times.system
      if not rows:
        cpu, since = now, time.monotonic()
      rows.append(worker.memory_info().rss)
      cores = (now - cpu) / max(time.monotonic() - since, 1)
    except (psutil.Error, ValueError):
      continue
  growth, quarter = math.inf, len(rows) // 4
  if quarter:
    growth = statistics.median(rows[-quarter:])
    growth -= statistics.median(rows[:quarter])
  chunks = collections.defaultdict(list)
  for line in out.read_text().splitlines():
    request, index, is_last = json.loads(line)
    chunks[request].append((index, is_last))
  whole = sum(
      [index
       for index, _ in sorted(made)] == [*range(len(made))] and max(made)[1]
      for made in chunks.values())
  counts = {
      'requests whole': whole,
      'memory grown MB': round(growth / 1e6, 1),
      'cores of the worker': round(cores, 3),
  }
  return counts, (
      job.returncode == 0 and whole == args.trickle_secs and
      growth <= _MOST_GROWTH_BYTES and cores <= _MOST_CORES)


_CASES = {
    case.__name__: case
    for case in (
        failed_bundles, killed_on_fn_api_runner, killed_on_prism, many_windows,
        in_flight, trickle)
}


def main(argv: list[str]) -> int:
  parser = argparse.ArgumentParser(
      prog='python -m tests.faults_soak', description=__doc__.splitlines()[0])
  add = parser.add_argument
  add('cases', nargs='*', metavar='case', help=', '.join(_CASES))
  add('--kills', type=int, default=10, help='default: %(default)s')
  add('--examples', type=int, default=2000, help='default: %(default)s')
  add('--elements', type=int, default=1_000_000, help='default: %(default)s')
  add('--requests', type=int, default=10_000, help='default: %(default)s')
  add('--trickle_secs', type=int, default=3600, help='default: %(default)s')
  args = parser.parse_args(argv)
  unknown = {*args.cases} - {*_CASES}
  if unknown:
    parser.error(f'no case is called {", ".join(sorted(unknown))}')
  wrong, rows = 0, []
  for name in args.cases or _CASES:
    print(f'{name} ...', file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
      began = time.monotonic()
      counts, is_right = _CASES[name](Path(folder), args)
      secs = time.monotonic() - began
    wrong += not is_right
    text = ', '.join(f'{value} {what}' for what, value in counts.items())
    rows.append((name, 'ok' if is_right else 'WRONG', f'{secs:.0f} s', text))
  print('| case | outcome | took | counts |\n|---|---|---|---|')
  for row in rows:
    print(f'| {" | ".join(row)} |')
  return wrong


if __name__ == '__main__':
  logging.getLogger().setLevel(logging.ERROR)
  sys.exit(main(sys.argv[1:]))
