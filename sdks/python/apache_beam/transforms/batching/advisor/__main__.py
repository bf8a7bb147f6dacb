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

"""Says in advance what batching by length will save.

  python -m apache_beam.transforms.batching.advisor LENGTHS --column C

compares what batches within a bundle cost: in arrival order, sorted, and cut at
least cost. With --time_column it replays the arrivals on a virtual clock under
--max_wait_secs, with a model that runs one batch at a time and takes as long as
--load says: in arrival order, with the length buckets of BatchElements, with the
best boundaries in hindsight, with the flag (smart: optimize_for='latency';
smart_cost: 'cost'), and against a bound of what any policy costs. Costs and
latencies are those of a model of a call, not measured.
"""

import argparse
import logging
import sys
from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path

from apache_beam.transforms.batching.advisor import policies
from apache_beam.transforms.batching.advisor import report
from apache_beam.transforms.batching.advisor.reading import InputError
from apache_beam.transforms.batching.advisor.reading import check_numbers
from apache_beam.transforms.batching.advisor.reading import read
from apache_beam.transforms.batching.policy.least_cost import Cost
from apache_beam.utils import command_line


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the answer; returns 2 if the input is wrong."""
  args = _parser().parse_args(argv)
  try:
    _check(args)
    print(_answer(args))
  except InputError as e:
    print(f'advisor: {e}', file=sys.stderr)
    return 2
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = command_line.make_parser(
      'apache_beam.transforms.batching.advisor', __doc__)
  add = parser.add_argument
  add('lengths', type=Path, help='a .csv, .jsonl or .parquet file')
  add('--column', required=True, help='of the lengths')
  add('--text', action='store_true', help='the column holds texts')
  add('--tokenizer', help='a Hugging Face name or folder, for --text')
  add(
      '--max_length',
      type=int,
      help='tokens after which a text is cut, for --text (what the tokenizer '
      'and its model say)')
  add('--time_column', help='when each arrives: numbers or ISO times')
  add('--time_unit', choices=('s', 'ms'), default='s', help='of numbers')
  add('--speedup', type=float, default=1.0, help='divides the times')
  add('--max_wait_secs', type=float, help='with --time_column')
  add('--lookahead', type=int, help='batches held back, without times (8)')
  add('--max_batch_size', type=int, default=32)
  add('--max_padded_size', type=int, help='longest times count')
  add('--fixed_cost', type=float, default=200, help='of a call, in tokens')
  add(
      '--load',
      type=float,
      help='the part of the time for which real tokens alone keep the model '
      'busy, with --time_column (0.5)')
  add('--format', choices=('table', 'json'), default='table')
  add('--plot', type=Path, help='FILE.png or FILE.html, with --time_column')
  return parser


def _check(args) -> None:
  check_numbers(
      args,
      positive=(
          'speedup',
          'max_batch_size',
          'max_length',
          'max_padded_size',
          'lookahead'),
      not_negative=('fixed_cost', 'max_wait_secs', 'load'))
  timed = args.time_column is not None
  if timed != (args.max_wait_secs is not None):
    raise InputError('--time_column and --max_wait_secs need each other.')
  if timed and args.lookahead is not None:
    raise InputError('--lookahead is for comparing without --time_column.')
  if args.load is not None and not timed:
    raise InputError('--load needs --time_column.')
  if args.plot and not timed:
    raise InputError('--plot shows latencies: it needs --time_column.')
  if args.plot:
    report.check_plot(args.plot)
  if args.text != (args.tokenizer is not None):
    raise InputError('--text and --tokenizer need each other.')
  if args.max_length and not args.text:
    raise InputError('--max_length cuts texts: it needs --text.')


def _answer(args) -> str:
  arrivals = read(
      args.lengths,
      args.column,
      args.time_column,
      args.time_unit,
      args.speedup,
      _token_counter(args.tokenizer, args.max_length) if args.text else None)
  load = 0.5 if args.load is None else args.load
  question = policies.Question(
      Cost(args.fixed_cost, 1), args.max_batch_size, args.max_padded_size, load)
  count = len(arrivals.lengths)
  if arrivals.times is None:
    lookahead = args.lookahead or 8
    figures = policies.within_bundles(arrivals.lengths, question, lookahead)
    how = f'within bundles, a look-ahead of {lookahead} batches'
  else:
    figures, best = policies.under_a_wait(
        arrivals.lengths, arrivals.times, question, args.max_wait_secs)
    how = (
        f'waits of {args.max_wait_secs:g} s, a load of {load:g}; best '
        f'boundaries: {best}')
    if args.plot:
      report.plot(args.plot, figures, f'{_title(args, count)}, load {load:g}')
  if args.format == 'json':
    return report.as_json(count, figures)
  return (
      f'{_title(args, count)}; {how}\n\n{report.as_table(figures)}\n\n'
      f'{report.saved(figures)}')


def _title(args, count):
  return (
      f'{args.lengths.name}: {count:,} elements\nBatches of at most '
      f'{args.max_batch_size}, a call that costs {args.fixed_cost:g} tokens')


def _token_counter(name: str, max_length: int | None) -> Callable[[str], int]:
  # Imported here because it needs the extras of inference.
  from apache_beam.ml.inference.token_counts import EncoderTokenCount
  count = EncoderTokenCount(name, longest=max_length)
  try:
    count('')
  except ImportError as e:
    raise InputError(
        '--text needs transformers. Install it (pip install transformers), or '
        'give a column of lengths.') from e
  except (OSError, ValueError) as e:
    raise InputError(f'--tokenizer={name}: cannot be loaded: {e}') from e
  return count


if __name__ == '__main__':
  command_line.run(main, logging.WARNING)
