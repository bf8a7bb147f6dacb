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
from collections.abc import Callable
from pathlib import Path

import torch

from apache_beam.examples.inference import bucketed_text_embeddings as example
from apache_beam.examples.inference.text_records import read_records
from apache_beam.runners.runner import PipelineResult
from tools import minilm_onnx
from tools.demo import recorder
from tools.demo.tables import aligned
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
    result: of the pipeline, with its metrics.
  """
  name: str
  seconds: float
  calls: list[recorder.Call]
  embeddings: dict[str, torch.Tensor]
  result: PipelineResult

  @property
  def rate(self) -> float:
    """Texts per second."""
    return len(self.embeddings) / self.seconds

  @property
  def padding_ratio(self) -> float:
    return sum(c.padded for c in self.calls) / sum(c.real for c in self.calls)

  def difference(self, other: 'Outcome') -> float:
    """The largest of any value of an embedding."""
    return max((self.embeddings[i] - embedding).abs().max().item()
               for i, embedding in other.embeddings.items())


def embed(
    name: str,
    texts: Path,
    options: dict,
    flags: list[str],
    batch_size: int = BATCH_SIZE,
    on_texts: Callable[[int], object] | None = None) -> Outcome:
  """Runs the example pipeline once, in this process.

  Args:
    name: of the way.
    texts: a JSON Lines file.
    options: of the model handler.
    flags: of the pipeline.
    batch_size: the largest number of texts in a batch.
    on_texts: called with the number of texts of each call of the model; a few
      texts are run again, to check that padding changes no result.
  """
  recorder.CALLS.clear()
  recorder.LOAD_SECONDS.clear()
  recorder.LISTENERS.clear()
  if on_texts:
    recorder.LISTENERS.append(lambda call: on_texts(call.texts))
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
      result)


def numbered(texts: Path, out: Path) -> int:
  """Copies texts to JSON Lines with distinct ids; returns their number."""
  count = 0
  with out.open('w', encoding='utf-8') as file:
    for count, record in enumerate(read_records(str(texts), 'text'), 1):
      file.write(json.dumps({'text': record.text, 'id': count - 1}) + '\n')
  return count


def table(outcomes: list[Outcome]) -> str:
  """One line a way; differences are against the first."""
  first = outcomes[0]
  return aligned([
      ('way', 'texts/s', 'speed', 'padding', 'batches', 'p95 batch', 'diff.'),
      *((
          outcome.name,
          f'{outcome.rate:.1f}',
          f'{first.seconds / outcome.seconds:.2f} x',
          f'{outcome.padding_ratio:.2f}',
          str(len(outcome.calls)),
          _p95([call.seconds for call in outcome.calls]),
          f'{outcome.difference(first):.1e}',
      ) for outcome in outcomes)
  ])


def _p95(seconds: list[float]) -> str:
  """Of 20 calls or more; fewer have no such percentile."""
  if len(seconds) < 20:
    return 'too few'
  return f'{statistics.quantiles(seconds, n=20)[-1] * 1000:.0f} ms'
