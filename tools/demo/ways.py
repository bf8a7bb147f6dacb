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

"""The ways in which the demo embeds the same texts."""

import dataclasses
import json
import statistics
import time
from pathlib import Path

import torch

from apache_beam.examples.inference import bucketed_text_embeddings as example
from apache_beam.transforms.batching import metrics_table
from tools import minilm_onnx
from tools.demo import recorder
from tools.layout import here

BATCH_SIZE = 32
# For the first two ways, as the size that Beam 2.77 chooses by its timings varies
# from run to run.
_FIXED = {'min_batch_size': BATCH_SIZE}
_FLAG = '--experiments=smart_bucketing'
ONNX_FILE = here().build / 'models' / minilm_onnx.NAME
# Name, options of the model handler, flags of the pipeline. The buckets of
# 2.77 need its stateful path, which a waiting time turns on.
WAYS = (
    ('flag off, arrival order', _FIXED, []),
    (
        'flag off, length buckets of 2.77', {
            **_FIXED, 'max_batch_duration_secs': 5
        }, []),
    ('flag on', {}, [_FLAG]),
    ('flag on, ONNX Runtime', {
        'onnx': str(ONNX_FILE)
    }, [_FLAG]),
)

_TIMED = {
    'model_class': recorder.TimedModel,
    'inference_fn': recorder.timed_inference
}
_TIMED_ONNX = {
    'handler_class': recorder.TimedOnnxHandler,
    'providers': ['CPUExecutionProvider']
}


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What one way took.

  Attributes:
    seconds: of the whole pipeline, without loading the model.
    calls: its batches.
    embeddings: by the text's id.
    metrics: the table that any pipeline can print.
  """
  name: str
  seconds: float
  calls: list[recorder.Call]
  embeddings: dict[str, torch.Tensor]
  metrics: str


def embed(
    name: str,
    texts: Path,
    options: dict,
    flags: list[str],
    batch_size: int = BATCH_SIZE) -> Outcome:
  """Runs the example pipeline once, in this process."""
  recorder.CALLS.clear()
  recorder.LOAD_SECONDS.clear()
  out = here().build / 'demo' / 'embeddings.jsonl'
  out.parent.mkdir(parents=True, exist_ok=True)
  out.unlink(missing_ok=True)
  handler = example.make_model_handler(
      example.default_model(),
      batch_size,
      **(_TIMED_ONNX if 'onnx' in options else _TIMED),
      **options)
  start = time.perf_counter()
  result = example.run(
      [f'--input={texts}', f'--output={out}', '--runner=FnApiRunner', *flags],
      save_main_session=False,
      model_handler=handler)
  seconds = time.perf_counter() - start - sum(recorder.LOAD_SECONDS)
  with out.open(encoding='utf-8') as file:
    rows = [json.loads(line) for line in file]
  return Outcome(
      name,
      seconds,
      list(recorder.CALLS),
      {row['id']: torch.tensor(row['embedding'])
       for row in rows},
      metrics_table(result))


def numbered(texts: Path, out: Path) -> int:
  """Copies texts to JSON Lines with distinct ids; returns their number."""
  parse = example.parse_json if texts.suffix == '.jsonl' else example.parse_text
  count = 0
  with texts.open(encoding='utf-8') as lines, out.open(
      'w', encoding='utf-8') as file:
    for line in lines:
      for record in parse(line.rstrip('\n')):
        file.write(json.dumps({**record, 'id': count}) + '\n')
        count += 1
  return count


def table(outcomes: list[Outcome]) -> str:
  """One line a way; differences are against the first."""
  lines = [
      '| way | texts/s | against the first | padding ratio | batches | '
      'p95 batch time | largest difference |',
      '|---|---|---|---|---|---|---|'
  ]
  first = outcomes[0]
  for outcome in outcomes:
    calls = outcome.calls
    rate = len(outcome.embeddings) / outcome.seconds
    ratio = sum(c.padded for c in calls) / sum(c.real for c in calls)
    difference = max((outcome.embeddings[i] - e).abs().max().item()
                     for i, e in first.embeddings.items())
    speedup = first.seconds / outcome.seconds
    lines.append(
        f'| {outcome.name} | {rate:.1f} | {speedup:.2f} x | {ratio:.2f} | '
        f'{len(calls)} | {_p95([c.seconds for c in calls])} | '
        f'{difference:.1e} |')
  return '\n'.join(lines)


def _p95(seconds: list[float]) -> str:
  """Of 20 calls or more; fewer have no such percentile."""
  if len(seconds) < 20:
    return f'(of {len(seconds)}: none)'
  return f'{statistics.quantiles(seconds, n=20)[-1] * 1000:.0f} ms'
