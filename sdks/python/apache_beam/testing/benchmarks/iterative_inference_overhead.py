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

"""Measures what iterative inference costs outside the model.

    python -m apache_beam.testing.benchmarks.iterative_inference_overhead \\
        --prompts 200 --runner=FnApiRunner

Prints one JSON object:

- chunk_cpu_msec: CPU of this process for a chunk, for each mode. It is the
  difference of a run with twice the prompts and one without that, over the
  difference of their chunks. FnApiRunner's own work is in it, and that of the
  clock which stands in for the model; Prism's is not.
- chunk_bytes: the size of an encoded chunk without its text, token ids and
  example: on average, of the largest, and of the largest that is not the last.
- flag_on: CPU of one-shot inference with --experiments=iterative_inference over
  that without, in pairs of runs.
"""

# pytype: skip-file

import dataclasses
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
from apache_beam import coders
from apache_beam.ml.inference.base import ModelHandler
from apache_beam.ml.inference.base import RunInference
from apache_beam.ml.inference.iterative.chunk import Chunk
from apache_beam.ml.inference.iterative.chunk_coder import ChunkCoder
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.inference.clock_session import ClockModelHandler
from apache_beam.transforms.batching.advisor.reading import check_numbers
from apache_beam.utils import command_line

__all__ = ['chunk_bytes', 'chunk_cpu_msec', 'chunk_overhead', 'flag_on']

_FLAG = '--experiments=iterative_inference'
_CODER = ChunkCoder(coders.StrUtf8Coder())
_VAR_INT = coders.VarIntCoder()
_MODES = ('in_bundle', 'durable')
# 64 tokens of a prompt in 1.3 s, as a fast GPU makes them, in about 9 chunks.
_TOKENS, _RATE = 64, 50.0


def chunk_overhead(chunk: Chunk) -> int:
  """Bytes of an encoded chunk beside its text, token ids and example."""
  bare = dataclasses.replace(chunk, example=None)
  ids = sum(len(_VAR_INT.encode(token_id)) for token_id in chunk.token_ids)
  return len(_CODER.encode(bare)) - len(chunk.text.encode()) - ids


def _run(
    flags: Sequence[str],
    mode: str,
    prompts: int,
    consume: Callable[[Chunk], Any]) -> tuple[float, list]:
  """Seconds of CPU, and what a fused consumer makes of each chunk."""
  options = PipelineOptions([*flags, _FLAG])
  with tempfile.TemporaryDirectory() as folder:
    out = os.path.join(folder, 'chunks.jsonl')
    start = time.process_time()
    with beam.Pipeline(options=options) as p:
      _ = (
          p | beam.Create([None])
          | 'Prompts' >> beam.FlatMap(
              lambda _: map(str, range(prompts))).with_output_types(str)
          | RunInference(
              ClockModelHandler(_TOKENS, _RATE),
              iterative=IterativeOptions(mode=mode, max_in_flight=prompts))
          | 'Consume' >> beam.Map(lambda chunk: json.dumps(consume(chunk)))
          | beam.io.WriteToText(out, num_shards=1, shard_name_template=''))
    seconds = time.process_time() - start
    with open(out, encoding='utf-8') as file:
      return seconds, [json.loads(line) for line in file]


def chunk_cpu_msec(
    flags: Sequence[str], mode: str, prompts: int, pairs: int = 3) -> dict:
  """Of the runner's process, as the docstring of this module says."""
  found = []
  for _ in range(pairs):
    (less, few), (more, many) = (
        _run(flags, mode, n * prompts, lambda chunk: chunk.index)
        for n in (1, 2))
    found.append(1000 * (more - less) / (len(many) - len(few)))
  return _spread(found)


def chunk_bytes(flags: Sequence[str], prompts: int) -> dict[str, float]:
  """Of the chunks of so many prompts, as the docstring of this module says."""
  _, rows = _run(
      flags,
      'in_bundle',
      prompts,
      lambda chunk: (chunk.is_last, chunk_overhead(chunk)))
  return {
      'mean': statistics.mean(size for _, size in rows),
      'largest': max(size for _, size in rows),
      'largest_not_last': max(size for is_last, size in rows if not is_last),
  }


class _EchoModelHandler(ModelHandler):
  """A model that costs nothing."""
  def load_model(self):
    return None

  def run_inference(self, batch, model, inference_args=None):
    return batch


def _one_shot(flags, elements):
  start = time.process_time()
  with beam.Pipeline(options=PipelineOptions(flags)) as p:
    _ = (
        p | beam.Create([None])
        | 'Inputs' >> beam.FlatMap(lambda _: range(elements))
        | RunInference(_EchoModelHandler(max_batch_size=32))
        | beam.combiners.Count.Globally())
  return time.process_time() - start


def flag_on(flags: Sequence[str], elements: int, pairs: int) -> dict[str, Any]:
  """Ratios of CPU, with the flag over without."""
  ways = ([*flags, _FLAG], [*flags])
  _one_shot(flags, elements)
  ratios = []
  for pair in range(pairs):
    # Neither is always the second, which may find the machine warmer.
    order = (0, 1) if pair % 2 else (1, 0)
    seconds = {way: _one_shot(ways[way], elements) for way in order}
    ratios.append(seconds[0] / seconds[1])
  return _spread(ratios)


def _spread(values):
  return {
      'median': statistics.median(values),
      'least': min(values),
      'most': max(values),
  }


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the figures; returns 2 if the arguments are wrong."""
  parser = command_line.make_parser(
      'apache_beam.testing.benchmarks.iterative_inference_overhead', __doc__)
  add = parser.add_argument
  add('--prompts', type=int, default=200, help='of the smaller run')
  add('--pairs', type=int, default=7)
  add('--elements', type=int, default=50_000, help='of one-shot inference')
  add('--modes', nargs='+', choices=_MODES, default=_MODES)
  try:
    args, flags = command_line.parse(parser, argv)
    check_numbers(
        args, positive=('prompts', 'pairs', 'elements'), not_negative=())
  except command_line.UsageError as e:
    print(f'iterative_inference_overhead: {e}', file=sys.stderr)
    return 2
  figures = {
      'chunk_cpu_msec': {
          mode: chunk_cpu_msec(flags, mode, args.prompts, args.pairs)
          for mode in args.modes
      },
      'chunk_bytes': chunk_bytes(flags, args.prompts),
      'flag_on': flag_on(flags, args.elements, args.pairs),
      'machine': (
          f'{platform.machine()}, {os.cpu_count()} cores, '
          f'Python {platform.python_version()}'),
      'command': ' '.join(argv if argv is not None else sys.argv[1:]),
  }
  print(json.dumps(figures, indent=2))
  return 0


if __name__ == '__main__':
  command_line.run(main, logging.ERROR)
