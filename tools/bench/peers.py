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

"""Ways of embedding the same texts with MiniLM on a CPU: 2.77, the series, and
other products.

Each run is a process of its own, in the environment of its product, and does
what a script of peer_ways says. The rounds are interleaved. All ways cut texts
at 256 tokens and give the same embeddings, which is checked.
"""

import json
import os
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np

from tools import servers
from tools.layout import Layout
from tools.layout import ToolError

# The script of each way, and the folder of its environment in requirements; None
# is build/venv. The first way is what the embeddings of the others are held
# against. Ways that are compared run one after the other, as the speed of a
# shared machine changes within minutes.
WAYS = {
    'encode_32': ('sentence_transformers', 'sentence_transformers'),
    'smart_mltransform': ('beam', None),
    'encode_8_by_tokens': ('sentence_transformers', 'sentence_transformers'),
    'smart_tensors': ('beam', None),
    'onnx_loop': ('onnx_loop', None),
    'smart_onnx': ('beam', None),
    'beam_2_77': ('beam', None),
    'infinity': ('infinity', 'infinity'),
    'fastembed': ('fastembed', 'fastembed'),
    'ray_data': ('ray_data', 'ray_data'),
}
_OF_SEVERAL_WAYS = ('sentence_transformers', 'beam')
REFERENCE = 'encode_32'
COMPARED = ('smart_onnx', 'smart_tensors', 'smart_mltransform')
MAX_DIFFERENCE = 1e-3

_ENVIRONMENT = {
    'HF_HUB_OFFLINE': '1',
    'HF_HUB_DISABLE_TELEMETRY': '1',
    'DO_NOT_TRACK': '1',
    'INFINITY_ANONYMOUS_USAGE_STATS': '0',
    'RAY_USAGE_STATS_ENABLED': '0',
}


def run(layout: Layout, texts: Path, pairs: int) -> dict:
  """Runs each way once a round.

  Args:
    texts: a file of JSON Lines with "id", which counts from 0, and "text".
    pairs: how many rounds.

  Raises:
    ToolError: if a product cannot be installed, if a run fails, or if its
      embeddings are not those of the first way.
  """
  pythons = {None: layout.build / 'venv' / 'bin' / 'python'}
  for _, name in WAYS.values():
    if name not in pythons:
      pythons[name] = servers.python_of(layout, name)
  outcomes: dict[str, list[dict]] = {way: [] for way in WAYS}
  for round_number in range(pairs):
    for way, (_, name) in WAYS.items():
      outcome = _run_one(layout, pythons[name], way, texts)
      outcomes[way].append(outcome)
      print(f'  {way}: {outcome["texts_per_second"]:.1f} texts/s', flush=True)
    print(f'  round {round_number + 1} of {pairs}', flush=True)
  with texts.open(encoding='utf-8') as file:
    count = sum(1 for _ in file)
  return {
      'texts': count,
      'ways': {
          way: _summary(some)
          for way, some in outcomes.items()
      }
  }


def _run_one(layout, python, way, texts):
  name = WAYS[way][0]
  script = Path(__file__).parent / 'peer_ways' / f'{name}.py'
  model = layout.build / 'models' / 'all-MiniLM-L6-v2'
  out = texts.parent / way
  # -P, as some scripts are named like the package that they import.
  command = [python, '-P', script, texts, model, out]
  if name in _OF_SEVERAL_WAYS:
    command.append(way)
  start = time.perf_counter()
  done = subprocess.run(
      command,
      cwd=layout.root,
      env={
          **os.environ, **_ENVIRONMENT
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      check=False)
  seconds = time.perf_counter() - start
  if done.returncode:
    raise ToolError(f'{way} failed:\n{done.stdout[-4000:]}')
  outcome = json.loads(Path(f'{out}.json').read_text())
  difference = largest_difference(
      way, np.load(texts.parent / f'{REFERENCE}.npy'), np.load(f'{out}.npy'))
  return {**outcome, 'wall_secs': seconds, 'largest_difference': difference}


def largest_difference(
    way: str, expected: np.ndarray, found: np.ndarray) -> float:
  """Between a value of an embedding and that of the first way.

  Raises:
    ToolError: if they are not the same embeddings.
  """
  if found.shape != expected.shape:
    raise ToolError(
        f'{way}: the shape of its embeddings is {found.shape}, not '
        f'{expected.shape}.')
  difference = float(np.abs(found - expected).max())
  # Also where it is not a number.
  if not difference <= MAX_DIFFERENCE:
    raise ToolError(
        f'{way}: an embedding differs by {difference:.1e} from that of '
        f'{REFERENCE}; at most {MAX_DIFFERENCE:.0e} is expected.')
  return difference


def _summary(outcomes):
  rates = [o['texts_per_second'] for o in outcomes]
  ratios = [o['padding_ratio'] for o in outcomes]
  return {
      'texts_per_second': statistics.median(rates),
      'wall_secs': statistics.median(o['wall_secs'] for o in outcomes),
      'padding_ratio': None if None in ratios else statistics.median(ratios),
      'largest_difference': max(o['largest_difference'] for o in outcomes),
      'rates': rates,
  }


def table(figures: dict) -> str:
  """Medians with their spread, and the ratio of some ways to each by rounds."""
  ways = figures['ways']
  lines = [
      '| way | texts/s, median | spread | wall s | padding ratio | ' +
      ' | '.join(f'{name} to it'
                 for name in COMPARED) + ' | largest difference |',
      '|' + '---|' * (6 + len(COMPARED))
  ]
  for way, found in ways.items():
    rates, padding = found['rates'], found['padding_ratio']
    ratios = [
        statistics.median(a / b for a, b in zip(ways[name]['rates'], rates))
        for name in COMPARED
    ]
    cells = [
        way,
        f"{found['texts_per_second']:.1f}",
        f'{min(rates):.1f} to {max(rates):.1f}',
        f"{found['wall_secs']:.1f}",
        '' if padding is None else f'{padding:.2f}',
        *(f'{ratio:.2f}' for ratio in ratios),
        f"{found['largest_difference']:.1e}",
    ]
    lines.append(f"| {' | '.join(cells)} |")
  return '\n'.join(lines) + f"\n\n{figures['texts']} texts."
