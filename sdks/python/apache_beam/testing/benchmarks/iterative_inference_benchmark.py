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

"""Measures when the consumers of a generating model see its output.

    python -m apache_beam.testing.benchmarks.iterative_inference_benchmark \\
        --handler hf --model DIR --prompts 16 --tokens 64 \\
        --runner=PrismRunner --prism_location=PATH

Generates for the same prompts, greedily, in these ways:

- bare: by the model's session, without Beam,
- one_shot: by RunInference, all prompts in a batch, seen after a Reshuffle,
- in_bundle: with iterative=IterativeOptions(), seen after a Reshuffle,
- in_bundle_fused: the same, seen by a consumer in the same stage,
- durable: with IterativeOptions(mode='durable'), seen after a Reshuffle.

The model is loaded and warm before a way starts. Prints one JSON object. For
each way, in seconds from the first submission of a prompt: ttft_p50 and
ttft_p95, when the consumer saw the first token of a prompt; e2e_p50, when it
saw the last; total, when it saw the last of all. Then the chunks and tokens of
the last way, and of all of them texts_equal, the share of iterative texts that
equal those of one_shot, the first difference, and what is missing or doubled,
as a GroupByKey counts it. With --rounds the ways are run so often, in turn;
times are medians, also those against the bare client and one_shot of the same
round, which have their spread beside them.

--handler clock takes no model: its tokens come by the clock, --rate a second
for each prompt, so it shows what the pipeline adds for any number of prompts.
"""

# pytype: skip-file

import argparse
import collections
import contextlib
import json
import logging
import os
import platform
import sys
import tempfile
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference
from apache_beam.ml.inference.iterative.handler import SessionModelHandler
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.ml.inference.iterative.session import Request
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.benchmarks import iterative_inference_recording as recording
from apache_beam.testing.benchmarks.iterative_inference_figures import Outcome
from apache_beam.testing.benchmarks.iterative_inference_figures import against
from apache_beam.testing.benchmarks.iterative_inference_figures import combine
from apache_beam.testing.benchmarks.iterative_inference_figures import compare_texts
from apache_beam.testing.benchmarks.iterative_inference_figures import counts
from apache_beam.testing.benchmarks.iterative_inference_figures import times
from apache_beam.transforms.batching.advisor.reading import InputError
from apache_beam.transforms.batching.advisor.reading import check_numbers
from apache_beam.utils import command_line

# With a worker of its own process also on Prism, as elsewhere.
_FLAGS = ('--experiments=use_loopback_process_worker', )
_ITERATIVE_FLAG = '--experiments=iterative_inference'
_WARM_UP_PROMPTS = 4
_SUBJECTS = (
    'a lighthouse',
    'two rivers',
    'the last train',
    'an honest merchant',
    'snow in April',
    'a lost umbrella',
    'the oldest tree',
    'a quiet library',
    'three brothers',
    'a paper boat',
    'the red kite',
    'an empty theatre',
    'a stubborn goat',
    'the night shift',
    'a borrowed violin',
    'the long bridge')


class Way(NamedTuple):
  """How output is made, and where it is seen; mode is None for one-shot."""
  name: str
  mode: str | None
  shuffled: bool


WAYS = {
    way.name: way
    for way in (
        Way('one_shot', None, True),
        Way('in_bundle', 'in_bundle', True),
        Way('in_bundle_fused', 'in_bundle', False),
        Way('durable', 'durable', True), )
}
_NAMES = ('bare', *WAYS)


class Engine(NamedTuple):
  """A model handler, and the arguments for so many greedy tokens.

  Attributes:
    handler: makes sessions.
    args: RunInference's inference_args.
    warm_up_args: for a few tokens; None if there is nothing to warm up.
  """
  handler: SessionModelHandler
  args: dict[str, Any]
  warm_up_args: dict[str, Any] | None


def make_engine(args) -> Engine:
  """Raises InputError if the arguments lack something."""
  if args.handler == 'clock':
    from apache_beam.testing.inference.clock_session import ClockModelHandler
    return Engine(ClockModelHandler(args.tokens, args.rate), {}, None)
  if not args.model:
    raise InputError(f'--handler={args.handler} needs --model.')
  if args.handler == 'hf':
    command_line.check_model(args.model)
    from apache_beam.ml.inference.huggingface_generation import HuggingFaceGenerationModelHandler
    handler = HuggingFaceGenerationModelHandler(args.model, dtype=args.dtype)
    return Engine(
        handler, {
            'max_new_tokens': args.tokens, 'ignore_eos': True
        }, {'max_new_tokens': 2})
  if not args.url:
    raise InputError('--handler=openai needs --url.')
  from apache_beam.ml.inference.openai_inference import OpenAICompletionsModelHandler
  handler = OpenAICompletionsModelHandler(args.url, args.model)
  return Engine(
      handler, {
          'max_tokens': args.tokens, 'temperature': 0
      }, {
          'max_tokens': 2, 'temperature': 0
      })


def make_prompts(count: int) -> list[str]:
  """Different prompts, the same each time."""
  return [
      f'Story {i + 1}, about {_SUBJECTS[i % len(_SUBJECTS)]}. Once upon a time'
      for i in range(count)
  ]


def run_bare(engine: Engine, prompts: Sequence[str]) -> Outcome:
  parts = collections.defaultdict(list)
  with tempfile.TemporaryDirectory() as folder:
    handler = _recording_handler(engine, folder, prompts)
    session = handler.open_session()
    with contextlib.closing(session):
      requests = [
          Request(
              recording.id_of(prompt), handler.prompt_of(prompt), engine.args)
          for prompt in prompts
      ]
      for request_id, part in recording.poll_all(session, requests):
        parts[request_id].append(part)
    return _outcome(parts, recording.memory_bytes(), folder)


def run_way(
    way: Way, engine: Engine, prompts: Sequence[str],
    flags: Sequence[str] = ()) -> Outcome:
  iterative = None
  if way.mode is not None:
    iterative = IterativeOptions(
        mode=way.mode,
        request_id_fn=recording.id_of,
        max_in_flight=max(len(prompts), 256))
    flags = [*flags, _ITERATIVE_FLAG]
  with tempfile.TemporaryDirectory() as folder:
    out = os.path.join(folder, 'parts.jsonl')
    with beam.Pipeline(options=PipelineOptions([*flags, *_FLAGS])) as p:
      output = (
          p | beam.Create([None])
          | 'Prompts' >> beam.FlatMap(lambda _: prompts).with_output_types(str)
          | RunInference(
              _recording_handler(engine, folder, prompts),
              inference_args=engine.args,
              iterative=iterative))
      if way.shuffled:
        output |= beam.Reshuffle()
      see = recording.see_result if iterative is None else recording.see_chunk
      _ = (
          output
          | 'See' >> beam.Map(see)
          | beam.GroupByKey()
          | beam.Map(recording.describe)
          | beam.io.WriteToText(out, num_shards=1, shard_name_template=''))
    recording.close_sessions()
    parts: dict[str, list[recording.Part]] = {}
    peaks: dict[int, int] = {}
    with open(out, encoding='utf-8') as file:
      for line in file:
        request_id, rows, process, memory = json.loads(line)
        parts[request_id] = [recording.Part(*row) for row in rows]
        # When the count begins; what it takes itself is not meant.
        peaks[process] = min(memory, peaks.get(process, memory))
    return _outcome(parts, max(peaks.values()), folder)


def _recording_handler(engine, folder, prompts):
  warm_up = () if engine.warm_up_args is None else prompts[:_WARM_UP_PROMPTS]
  return recording.RecordingModelHandler(
      engine.handler, folder, len(prompts), warm_up, engine.warm_up_args)


def _outcome(parts, peak, folder):
  started, memory = recording.first_submission(folder)
  return Outcome(dict(parts), started, peak, max(peak - memory, 0))


def measure(
    engine: Engine,
    prompts: Sequence[str],
    names: Iterable[str] = _NAMES,
    flags: Sequence[str] = ()) -> dict[str, Any]:
  """Runs the ways of these names once; returns their figures."""
  outcomes = {}
  if 'bare' in names:
    outcomes['bare'] = run_bare(engine, prompts)
  for way in WAYS.values():
    if way.name in names:
      outcomes[way.name] = run_way(way, engine, prompts, flags)
  counted = {
      name: counts(outcome, prompts)
      for name, outcome in outcomes.items()
  }
  last = counted[list(outcomes)[-1]]
  texts = {}
  iterative = {
      name: outcome
      for name, outcome in outcomes.items() if name not in ('bare', 'one_shot')
  }
  if iterative and 'one_shot' in outcomes:
    texts = compare_texts(outcomes['one_shot'], iterative, prompts)
  figures = {name: times(outcome) for name, outcome in outcomes.items()}
  return {
      **figures,
      'chunks': last['chunks'],
      'tokens': last['tokens'],
      **texts,
      'missing': sum(c['missing'] for c in counted.values()),
      'doubled': sum(c['doubled'] for c in counted.values()),
      'against': against(figures),
      'counts': counted,
  }


def _parser() -> argparse.ArgumentParser:
  parser = command_line.make_parser(
      'apache_beam.testing.benchmarks.iterative_inference_benchmark', __doc__)
  add = parser.add_argument
  add('--handler', choices=('hf', 'openai', 'clock'), required=True)
  add('--model', help='a folder or name, or what the server calls the model')
  add('--url', help='of the server, with its /v1')
  add('--dtype', help='of the weights, for hf, such as float32')
  add('--prompts', type=int, default=16)
  add('--tokens', type=int, default=64, help='for each prompt')
  add('--rate', type=float, default=20.0, help='tokens a second, for clock')
  add('--ways', nargs='+', choices=_NAMES, default=_NAMES)
  add('--rounds', type=int, default=1, help='of all ways, one after another')
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the figures; returns 2 if the arguments are wrong."""
  try:
    args, flags = command_line.parse(_parser(), argv)
    check_numbers(
        args, positive=('prompts', 'tokens', 'rate', 'rounds'), not_negative=())
    engine = make_engine(args)
  except command_line.UsageError as e:
    print(f'iterative_inference_benchmark: {e}', file=sys.stderr)
    return 2
  # A worker process of its own is started as `python`; let it be this one.
  os.environ['PATH'] = os.pathsep.join(
      [os.path.dirname(sys.executable), os.environ.get('PATH', '')])
  prompts = make_prompts(args.prompts)
  rounds = [
      measure(engine, prompts, args.ways, flags) for _ in range(args.rounds)
  ]
  figures = combine(rounds, args.ways)
  figures['machine'] = (
      f'{platform.machine()}, {os.cpu_count()} cores, '
      f'Python {platform.python_version()}')
  figures['command'] = ' '.join(argv if argv is not None else sys.argv[1:])
  print(json.dumps(figures, indent=2))
  return 0


if __name__ == '__main__':
  command_line.run(main, logging.ERROR)
