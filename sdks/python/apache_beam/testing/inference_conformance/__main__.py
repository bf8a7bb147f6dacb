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

"""Runs the cases on a runner and prints which guarantees hold."""

import argparse
import dataclasses
import functools
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.pipeline_options import StandardOptions
from apache_beam.testing.inference_conformance import bucketing_cases
from apache_beam.testing.inference_conformance import iterative_cases
from apache_beam.testing.inference_conformance import observations
from apache_beam.testing.inference_conformance.case import TIMER_SECS
from apache_beam.testing.inference_conformance.case import Case

CASES: dict[str, Case] = {**bucketing_cases.CASES, **iterative_cases.CASES}
HOLDS = 'holds'
BROKEN = 'broken'
NOT_APPLICABLE = 'not applicable'
# Above what a case waits for its pipeline, for the end of its process.
_GRACE_SECS = 30


def verdict(figures: Mapping[str, int] | None) -> tuple[str, str]:
  """Says whether a guarantee holds, and why or with which figure.

  Args:
    figures: what ``observations`` counted; None if nothing came back.
  """
  if figures is None or observations.JUDGED not in figures:
    return BROKEN, (
        'the job ended, but no metrics arrived' if not figures else
        'the job ended, but nothing reached its end')
  bad = {
      name.removeprefix('bad_'): count
      for name, count in figures.items() if name.startswith('bad_') and count
  }
  if bad:
    return BROKEN, ', '.join(
        f"{name.replace('_', ' ')}: {n}" for name, n in bad.items())
  return HOLDS, ', '.join(
      _figure(name, value) for name, value in sorted(figures.items())
      if not name.startswith('bad_') and
      name not in (observations.JUDGED, observations.STARTED))


def _figure(name, value):
  if name.endswith('_msec'):
    name, value = name.removesuffix('_msec'), f'{value / 1000:.2f} s'
  elif name.endswith('_permille'):
    name, value = name.removesuffix('_permille'), f'{value / 1000:.3f}'
  return f"{name.replace('_', ' ')} {value}"


def run_case(case: Case, flags: Sequence[str],
             deadline_secs: float) -> tuple[str, str]:
  """Runs a pipeline here; returns (state, why or figure)."""
  options = PipelineOptions(_with_experiments(case, flags))
  if case.needs_streaming and not options.view_as(StandardOptions).streaming:
    return NOT_APPLICABLE, 'needs --streaming'
  pipeline = beam.Pipeline(options=options)
  if case.needs_streaming and _fires_timers_late(pipeline.runner):
    return NOT_APPLICABLE, (
        f'{type(pipeline.runner).__name__} runs each stage to its end')
  try:
    _ = case.build(pipeline) | observations.Report(case.judge)
    result = pipeline.run()
    state = result.wait_until_finish(duration=int(1000 * deadline_secs))
  except Exception as e:  # pylint: disable=broad-except
    return BROKEN, f'{type(e).__name__}: {str(e).strip()[:500]}'
  if state is not None and state != 'DONE':
    _cancel(result)
    return BROKEN, f'{state} after {deadline_secs:g} s'
  missing = _missing(case.metrics, result)
  if missing:
    return BROKEN, f'metrics that did not arrive: {", ".join(missing)}'
  return verdict(_figures(result))


def _missing(names, result):
  found = result.metrics().query() if names else {}
  arrived = {
      metric.key.metric.name
      for metric in found.get('counters', ()) if metric.result
  }
  arrived.update(
      metric.key.metric.name for metric in found.get('distributions', ())
      if metric.result.count)
  return [name for name in names if name not in arrived]


def _with_experiments(case, flags):
  runner = PipelineOptions(flags).view_as(StandardOptions).runner or ''
  experiments = [case.experiment]
  if runner.rpartition('.')[2].lower().startswith('prism'):
    # Else it splits bundles of a key, and loses and duplicates elements.
    experiments.append('prism_disable_sdf_split')
  return [*flags, *(f'--experiments={name}' for name in experiments)]


def _fires_timers_late(runner) -> bool:
  return type(runner).__name__ in (
      'FnApiRunner', 'SwitchingDirectRunner', 'BundleBasedDirectRunner')


def _cancel(result):
  try:
    result.cancel()
  except Exception as e:  # pylint: disable=broad-except
    logging.warning('The job could not be cancelled: %s', e)


def _figures(result) -> dict[str, int] | None:
  in_namespace = MetricsFilter().with_namespace(observations.NAMESPACE)
  found = result.metrics().query(in_namespace)
  figures = {}
  for metric in found['distributions']:
    name = metric.key.metric.name
    figures[name] = max(int(metric.result.max or 0), figures.get(name, 0))
  for metric in found['counters']:
    figures[metric.key.metric.name] = metric.result
  return figures or None


def with_timer_secs(case: Case, timer_secs: float) -> Case:
  """The case on a runner whose timers fire that much later than they are set."""
  bound = getattr(case.judge, 'keywords', {}).get('most_secs')
  if bound is None:
    return case
  return dataclasses.replace(
      case,
      judge=functools.partial(
          case.judge, most_secs=bound - TIMER_SECS + timer_secs))


def run_apart(
    name: str,
    flags: Sequence[str],
    deadline_secs: float,
    timer_secs: float = TIMER_SECS) -> dict[str, str]:
  """Runs a case in a process of its own, which is killed after its deadline."""
  start = time.monotonic()
  command = [
      *(sys.executable, '-m', 'apache_beam.testing.inference_conformance'),
      *('--case', name, '--deadline_secs', str(deadline_secs)),
      *('--timer_secs', str(timer_secs), *flags)
  ]
  try:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=deadline_secs + _GRACE_SECS,
        env={
            **os.environ, 'TOKENIZERS_PARALLELISM': 'false'
        })
    state, why = json.loads(done.stdout.splitlines()[-1])
  except subprocess.TimeoutExpired:
    state, why = BROKEN, f'no end after {deadline_secs:g} s'
  except (IndexError, ValueError):
    last = done.stderr.strip().splitlines()[-1:] or ['nothing was printed']
    state, why = BROKEN, f'the process ended with {done.returncode}: {last[0]}'
  return {
      'case': name,
      'guarantee': CASES[name].guarantee,
      'state': state,
      'figure': why,
      'secs': f'{time.monotonic() - start:.1f}',
  }


def as_table(rows: Sequence[Mapping[str, str]]) -> str:
  lines = [
      '| case | guarantee | | figure or reason | s |', '|---|---|---|---|---|'
  ]
  for row in rows:
    why = row['figure'].replace('|', '/').replace('\n', ' ')
    lines.append(
        f"| {row['case']} | {row['guarantee']} | {row['state']} | {why} | "
        f"{row['secs']} |")
  return '\n'.join(lines)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
      prog='python -m apache_beam.testing.inference_conformance',
      description='Prints which guarantees of batching by length and of '
      'iterative inference hold on a runner. Takes any pipeline option, such '
      'as --runner=FlinkRunner --streaming. The exit code is 1 if one is '
      'broken.')
  add = parser.add_argument
  add('--cases', help='names, separated by commas; all without it')
  add('--case', choices=sorted(CASES), help=argparse.SUPPRESS)
  add(
      '--deadline_secs',
      type=float,
      default=120,
      help='how long a case may take (default: 120)')
  add(
      '--timer_secs',
      type=float,
      default=TIMER_SECS,
      help='how much later than they are set the timers of the runner may fire '
      f'(default: {TIMER_SECS:g})')
  add('--format', choices=('table', 'json'), default='table')
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """Returns 1 if a guarantee is broken, 2 if the arguments are wrong."""
  args, flags = _parser().parse_known_args(argv)
  if args.case:
    case = with_timer_secs(CASES[args.case], args.timer_secs)
    print(json.dumps(run_case(case, flags, args.deadline_secs)))
    return 0
  names = args.cases.split(',') if args.cases else [*CASES]
  unknown = [name for name in names if name not in CASES]
  if unknown:
    print(
        f'inference_conformance: --cases has no {", ".join(unknown)}. There '
        f'are: {", ".join(CASES)}.',
        file=sys.stderr)
    return 2
  rows = []
  for name in names:
    rows.append(run_apart(name, flags, args.deadline_secs, args.timer_secs))
    print(f"{name}: {rows[-1]['state']}", file=sys.stderr, flush=True)
  print(json.dumps(rows, indent=2) if args.format == 'json' else as_table(rows))
  return any(row['state'] == BROKEN for row in rows)


if __name__ == '__main__':
  sys.exit(main())
