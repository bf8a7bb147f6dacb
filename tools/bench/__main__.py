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

"""Measures the series, prints tables and writes build/bench-PART.json.

    build/venv/bin/python -m tools.bench
        {overhead,policy,model,peers,throughput,streaming,iterative,vllm}
        [--pairs N] [--texts N] [--elements N]
        [--trace FILE --column C --time_column T]
"""

import argparse
import dataclasses
import json
import os
import platform
import sys
from pathlib import Path

from tools.layout import Layout
from tools.layout import ToolError
from tools.layout import here

_SEED = 0


def overhead(layout: Layout, args) -> tuple[str, dict]:
  from tools.bench import overhead as part
  from tools.bench.policy import read_lengths
  lengths = read_lengths(args.trace, args.column) if args.trace else []
  figures = part.run(layout, args.pairs, lengths)
  return part.table(figures), {
      'figures': [dataclasses.asdict(figure) for figure in figures]
  }


def policy(layout: Layout, args) -> tuple[str, dict]:
  from tools.bench import policy as part
  from tools.bench import waiting
  folder = layout.build / 'drifts'
  folder.mkdir(parents=True, exist_ok=True)
  figures = {'drifts': part.on_drifts(folder, _SEED)}
  waits = waiting.run()
  figures['waiting'] = [dataclasses.asdict(figure) for figure in waits]
  tables = [part.replay_table(figures['drifts']), waiting.table(waits)]
  if args.trace:
    figures['bundle'] = part.within_a_bundle(
        part.read_lengths(args.trace, args.column))
    figures['replay'] = part.under_a_wait(
        args.trace, args.column, args.time_column)
    tables = [
        part.bundle_table(figures['bundle']),
        part.replay_table(figures['replay']),
        *tables
    ]
  return '\n\n'.join(tables), figures


def _texts(layout: Layout, count: int) -> Path:
  """Docstrings, after a first call of the model."""
  from tools.demo import __main__ as demo
  from tools.demo import docstrings
  from tools.demo import ways
  demo.quiet_logs()
  folder = layout.build / 'demo'
  folder.mkdir(parents=True, exist_ok=True)
  texts = folder / 'texts.jsonl'
  docstrings.write_sample(count, folder / 'docstrings.jsonl')
  ways.numbered(folder / 'docstrings.jsonl', texts)
  demo.warm_up(ways, texts, folder / 'first.jsonl')
  return texts


def model(layout: Layout, args) -> tuple[str, dict]:
  from tools.bench import model as part
  texts = _texts(layout, args.texts)
  equal = part.of_one_length(texts.parent, args.texts // 2, args.pairs)
  figures = part.compare(texts, part.tune(texts), args.pairs)
  return part.table(figures) + '\n\n' + part.one_length_table(equal), {
      **figures, 'one_length': equal
  }


def peers(layout: Layout, args) -> tuple[str, dict]:
  from tools.bench import peers as part
  from tools.demo import docstrings
  texts = layout.build / 'peers' / 'texts.jsonl'
  texts.parent.mkdir(parents=True, exist_ok=True)
  docstrings.write_sample(args.texts, texts)
  figures = part.run(layout, texts, args.pairs)
  return part.table(figures), figures


def iterative(layout: Layout, args) -> tuple[str, dict]:
  from tools.bench import iterative as part
  figures = part.run(layout, args.pairs)
  return part.tables(figures), figures


def vllm(layout: Layout, args) -> tuple[str, dict]:
  from tools.bench import iterative as part
  figures = part.run_on_vllm(layout, args.pairs)
  return part.vllm_table(figures), figures


def throughput(layout: Layout, args) -> tuple[str, dict]:
  from tools.bench import throughput as part
  from tools.bench.policy import read_lengths
  if not args.trace:
    raise ToolError('throughput needs --trace, a file of lengths.')
  lengths = read_lengths(args.trace, args.column)
  figures = part.run(layout, lengths, args.elements, args.pairs)
  return part.table(figures), {
      'figures': [dataclasses.asdict(figure) for figure in figures]
  }


def streaming(layout: Layout, args) -> tuple[str, dict]:
  from tools.bench import streaming as part
  figures = part.run(layout, _texts(layout, args.texts), args.pairs)
  return part.table(figures), {
      'figures': [dataclasses.asdict(f) for f in figures]
  }


_PARTS = {
    'overhead': overhead,
    'policy': policy,
    'model': model,
    'peers': peers,
    'iterative': iterative,
    'vllm': vllm,
    'throughput': throughput,
    'streaming': streaming
}


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('part', choices=_PARTS)
  parser.add_argument('--pairs', type=int, default=7)
  parser.add_argument(
      '--texts', type=int, default=600, help='for model, peers and streaming')
  parser.add_argument(
      '--elements', type=int, default=200_000, help='for throughput')
  parser.add_argument(
      '--trace', type=Path, help='a CSV of arrivals, for overhead and policy')
  parser.add_argument('--column', default='ContextTokens')
  parser.add_argument('--time_column', default='TIMESTAMP')
  args = parser.parse_args(argv)
  layout = here()
  try:
    text, figures = _PARTS[args.part](layout, args)
  except ToolError as e:
    print(f'bench: {e}', file=sys.stderr)
    return 1
  command = 'python -m tools.bench ' + ' '.join(argv or sys.argv[1:])
  machine = (
      f'{platform.machine()}, {os.cpu_count()} cores, Python '
      f'{platform.python_version()}, seed {_SEED}')
  out = layout.build / f'bench-{args.part}.json'
  out.write_text(
      json.dumps({
          'machine': machine, 'command': command, **figures
      }, indent=2))
  print(f'{command}\n{machine}\n\n{text}\n')
  print(f'Raw figures in {out.relative_to(layout.root)}.')
  return 0


if __name__ == '__main__':
  sys.exit(main())
