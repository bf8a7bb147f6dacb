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

"""A real model on real text: the flag on, 2.77 as one would configure it,
sentence-transformers' own encode, which sorts, and a loop by hand around ONNX
Runtime, which sorts by tokens.

MiniLM-L6 embeds docstrings, in interleaved rounds in one process. 2.77 is run
with batches of 32, with batches that its size estimator chooses, with its default length buckets at its best batch size,
and with the best batch size and boundaries of a grid that was tried on the same
texts beforehand, which nobody has in advance.
"""

import dataclasses
import json
import statistics
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from apache_beam.examples.inference import bucketed_text_embeddings as example
from tools.bench.peer_ways import onnx_loop
from tools.demo import ways

FLAG_ON = 'flag on'
FIXED = '2.77, batches of 32'
FLAG_OFF = '2.77, max_batch_size=32'
DEFAULT_BUCKETS = '2.77, default buckets, best batch size'
TUNED = '2.77, best of the grid in hindsight'
ENCODE = 'sentence-transformers encode'
ONNX_ON = 'flag on, ONNX Runtime'
ONNX_LOOP = 'ONNX Runtime, a loop by hand sorted by tokens'

_FLAG = '--experiments=smart_bucketing'
_BATCH_SIZES = (4, 8, 16, 32, 64)
_BUCKETS = (8, 16, 32)
# Of a text, as the pipeline takes them; sentence-transformers takes 256 by
# default.
_MAX_TOKENS = 512
# The stateful path has the buckets; all of the input is there at once, so none
# of its batches waits that long.
_WAIT = {'max_batch_duration_secs': 5}


@dataclasses.dataclass(frozen=True)
class Setting:
  """Options of 2.77, with the texts per second that they gave."""
  batch_size: int
  kind: str
  boundaries: list[int]
  rate: float

  def way(self) -> tuple[int, dict, list[str]]:
    return self.batch_size, _options(self.batch_size, self.boundaries), []


def quantile_edges(lengths: list[int], buckets: int) -> list[int]:
  edges = np.quantile(lengths, np.linspace(0, 1, buckets + 1)[1:-1])
  return sorted({max(1, int(edge)) for edge in edges})


def geometric_edges(lengths: list[int], buckets: int) -> list[int]:
  edges = np.geomspace(max(1, min(lengths)), max(lengths), buckets + 1)[1:-1]
  return sorted({max(1, int(edge)) for edge in edges})


def tune(texts: Path) -> list[Setting]:
  """Runs 2.77 once with each setting of the grid, best first."""
  lengths = _token_counts(texts)
  settings = []
  for size in _BATCH_SIZES:
    edges = {('default', 7): []}
    for kind, buckets in product((quantile_edges, geometric_edges), _BUCKETS):
      name = kind.__name__.removesuffix('_edges')
      edges[name, buckets] = kind(lengths, buckets)
    for (kind, buckets), boundaries in edges.items():
      options = _options(size, boundaries)
      outcome = ways.embed('grid', texts, options, [], size)
      rate = len(outcome.embeddings) / outcome.seconds
      print(f'  batch {size}, {kind} {buckets}: {rate:.1f} texts/s', flush=True)
      settings.append(Setting(size, f'{kind} {buckets}', boundaries, rate))
  return sorted(settings, key=lambda setting: -setting.rate)


def compare(texts: Path, settings: list[Setting], pairs: int) -> dict:
  """Texts per second of each way, one a round, and the largest difference."""
  defaults = next(s for s in settings if s.kind.startswith('default'))
  beam_ways = {
      FIXED: (32, {
          'min_batch_size': 32
      }, []),
      FLAG_OFF: (32, {}, []),
      DEFAULT_BUCKETS: defaults.way(),
      TUNED: settings[0].way(),
      FLAG_ON: (32, {}, [_FLAG]),
      ONNX_ON: (32, {
          'onnx': str(ways.ONNX_FILE)
      }, [_FLAG]),
  }
  rates: dict[str, list[float]] = {}
  padding: dict[str, list[float]] = {}
  difference, first = 0.0, None
  for round_number in range(pairs):
    for name, (size, options, flags) in beam_ways.items():
      outcome = ways.embed(name, texts, options, flags, size)
      first = first or outcome.embeddings
      difference = max(difference, _difference(first, outcome.embeddings))
      rates.setdefault(name,
                       []).append(len(outcome.embeddings) / outcome.seconds)
      padding.setdefault(name, []).append(
          sum(c.padded
              for c in outcome.calls) / sum(c.real for c in outcome.calls))
    rates.setdefault(ENCODE, []).append(_encode(texts))
    rate, embeddings = _onnx_loop(texts)
    rates.setdefault(ONNX_LOOP, []).append(rate)
    difference = max(difference, _difference(first, embeddings))
    print(f'  round {round_number + 1} of {pairs}', flush=True)
  return {
      'texts': len(first),
      'rates': rates,
      'padding': padding,
      'largest_difference': difference,
      'default_buckets': dataclasses.asdict(defaults),
      'tuned': dataclasses.asdict(settings[0]),
      'grid': [dataclasses.asdict(s) for s in settings],
  }


def of_one_length(folder: Path, count: int, pairs: int) -> dict:
  """Texts per second where all texts have 128 tokens: nothing can be gained."""
  texts = folder / 'one_length.jsonl'
  words = ' '.join(['word'] * 126)
  with texts.open('w', encoding='utf-8') as file:
    for i in range(count):
      file.write(json.dumps({'id': i, 'text': words}) + '\n')
  rates: dict[str, list[float]] = {FLAG_OFF: [], FLAG_ON: []}
  for round_number in range(pairs):
    for name, flags in ((FLAG_OFF, []), (FLAG_ON, [_FLAG])):
      outcome = ways.embed(name, texts, {}, flags)
      rates[name].append(len(outcome.embeddings) / outcome.seconds)
    print(f'  one length: round {round_number + 1} of {pairs}', flush=True)
  return {'texts': count, 'rates': rates}


def one_length_table(result: dict) -> str:
  """Medians with their spread, and the flag's ratio by pairs."""
  off, on = result['rates'][FLAG_OFF], result['rates'][FLAG_ON]
  ratios = [a / b for a, b in zip(on, off)]
  lines = [
      f"{result['texts']} texts of 128 tokens each:\n",
      '| way | texts/s, median | spread | flag on to it, median | spread |',
      '|---|---|---|---|---|',
      f'| {FLAG_OFF} | {statistics.median(off):.1f} | {min(off):.1f} to '
      f'{max(off):.1f} | {statistics.median(ratios):.2f} | {min(ratios):.2f} to '
      f'{max(ratios):.2f} |',
      f'| {FLAG_ON} | {statistics.median(on):.1f} | {min(on):.1f} to '
      f'{max(on):.1f} | | |'
  ]
  return '\n'.join(lines)


def table(result: dict) -> str:
  """Medians with their spread, and the flag's ratio to each by pairs.

  Where time goes by padded tokens alone, the ratio is that of the padding: all
  that there is to gain from a way whose calls are as full.
  """
  lines = [
      '| way | texts/s, median | spread | padding ratio | flag on to it, lower '
      'quartile | median | by padding alone |',
      '|---|---|---|---|---|---|---|'
  ]
  on = result['rates'][FLAG_ON]
  for name, rates in result['rates'].items():
    ratios = [a / b for a, b in zip(on, rates)]
    low = statistics.quantiles(ratios, n=4)[0] if len(ratios) > 1 else ratios[0]
    padding = alone = ''
    if name in result['padding']:
      ratio = statistics.median(result['padding'][name])
      padding = f'{ratio:.2f}'
      alone = f"{ratio / statistics.median(result['padding'][FLAG_ON]):.2f}"
    lines.append(
        f'| {name} | {statistics.median(rates):.1f} | {min(rates):.1f} to '
        f'{max(rates):.1f} | {padding} | {low:.2f} | '
        f'{statistics.median(ratios):.2f} | {alone} |')
  tuned, default = result['tuned'], result['default_buckets']
  if ONNX_LOOP in result['rates']:
    ratios = [
        a / b
        for a, b in zip(result['rates'][ONNX_ON], result['rates'][ONNX_LOOP])
    ]
    lines.append(
        '\nONNX Runtime with the flag, against the loop by hand: '
        f'{statistics.median(ratios):.2f} ({min(ratios):.2f} to '
        f'{max(ratios):.2f}).')
  return '\n'.join(lines) + (
      f"\n\n{result['texts']} texts. Best of the grid: batches of "
      f"{tuned['batch_size']}, {tuned['kind']} boundaries; of the default ones: "
      f"{default['batch_size']}. Largest difference of an embedding: "
      f"{result['largest_difference']:.1e}.")


def _options(batch_size, boundaries):
  options = {**_WAIT, 'min_batch_size': batch_size}
  if boundaries:
    options['batch_bucket_boundaries'] = boundaries
  return options


def _difference(one: dict, other: dict) -> float:
  return max((one[i] - other[i]).abs().max().item() for i in one)


def _records(texts: Path) -> list[dict]:
  with texts.open(encoding='utf-8') as file:
    return [json.loads(line) for line in file]


def _token_counts(texts: Path) -> list[int]:
  tokenize = example.Tokenize(example.default_model())
  return [len(tokenize(record)[1]['input_ids']) for record in _records(texts)]


def _encode(texts: Path) -> float:
  """Texts per second, without loading the model."""
  model = SentenceTransformer(example.default_model(), device='cpu')
  model.max_seq_length = _MAX_TOKENS
  words = [record['text'] for record in _records(texts)]
  start = time.perf_counter()
  with torch.inference_mode():
    model.encode(words, batch_size=32, show_progress_bar=False)
  return len(words) / (time.perf_counter() - start)


def _onnx_loop(texts: Path) -> tuple[float, dict]:
  """Texts per second of what one would write by hand, without the load, and
  the embeddings."""
  records = _records(texts)
  embeddings, seconds, _ = onnx_loop.embed(
      [record['text'] for record in records],
      str(ways.ONNX_FILE.with_suffix('')),
      _MAX_TOKENS)
  return len(records) / seconds, {
      str(record['id']): torch.from_numpy(embedding)
      for record, embedding in zip(records, embeddings)
  }
