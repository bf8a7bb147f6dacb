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

"""A pipeline for long texts, which survives a restart of the whole job.

Within a job a worker that is lost costs no token in the mode durable. This
example goes further: it keeps each chunk in a folder after a shuffle, and when
it is started again, after a failure or on purpose, texts go on where their kept
chunks end, or where one of them is lost; those after it are dropped. Texts that
are finished are left alone::

    python -m apache_beam.examples.inference.iterative_long_generation \\
        --input=prompts.jsonl --keep=chunks/ --output=texts.jsonl \\
        --handler=hf --model=HuggingFaceTB/SmolLM2-135M-Instruct \\
        --max_tokens=4000 --experiments=iterative_inference

The input is a JSON Lines file (.jsonl) of objects with an "id" and a "prompt".
The output is JSON Lines, an object for each prompt with its id, prompt, text and
is_finished. The folder is one that all workers see. Ctrl-C loses nothing that was
kept.
"""

import json
import os
import uuid
from collections import Counter
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import apache_beam as beam
from apache_beam.examples.inference.iterative_text_generation import KeyedChunk
from apache_beam.examples.inference.iterative_text_generation import KeyedPrompt
from apache_beam.examples.inference.iterative_text_generation import Prompt
from apache_beam.examples.inference.iterative_text_generation import add_model_arguments
from apache_beam.examples.inference.iterative_text_generation import keyed
from apache_beam.examples.inference.iterative_text_generation import make_model_handler
from apache_beam.examples.inference.text_records import find_files
from apache_beam.examples.inference.text_records import read_records
from apache_beam.ml.inference.base import KeyedModelHandler
from apache_beam.ml.inference.base import RunInference
from apache_beam.ml.inference.iterative import Chunk
from apache_beam.ml.inference.iterative import Emitted
from apache_beam.ml.inference.iterative import IterativeOptions
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.utils import command_line


class KeepChunks(beam.DoFn):
  """Appends chunks to a file of this worker; each is on disk when it returns.

  Args:
    folder: where the files of all workers are.
  """
  def __init__(self, folder: str):
    self._folder = folder

  def setup(self):
    path = Path(self._folder) / f'{uuid.uuid4().hex}.jsonl'
    self._file = path.open('a', encoding='utf-8')

  def process(self, element: KeyedChunk):
    (key, prompt), chunk = element
    row = {
        'id': key,
        'prompt': prompt,
        'index': chunk.index,
        'text': chunk.text,
        'token_ids': chunk.token_ids,
        'finish_reason': chunk.finish_reason,
        'error': chunk.error,
    }
    self._file.write(json.dumps(row) + '\n')
    self._file.flush()
    os.fsync(self._file.fileno())

  def teardown(self):
    self._file.close()


def _read_rows(folder):
  """The rows of chunks of each text, by its id; not that a text failed."""
  rows = defaultdict(list)
  for path in sorted(Path(folder).glob('*.jsonl')):
    for line in path.read_text(encoding='utf-8').splitlines(keepends=True):
      # A worker may have been lost amid a line.
      if line.endswith('\n'):
        row = json.loads(line)
        if row['error'] is None:
          rows[row['id']].append(row)
  return rows


def _emitted(rows):
  return Emitted.of(
      Chunk(
          row['id'],
          row['index'],
          row['text'],
          tuple(row['token_ids']),
          finish_reason=row['finish_reason']) for row in rows)


def read_kept(folder: str) -> dict[str, Emitted]:
  """What was kept of each text, by its id, up to the first chunk that is lost.

  A chunk may be there twice, as the worker that kept it was lost before it said
  so. Texts that failed go on, too.
  """
  return {key: _emitted(rows) for key, rows in _read_rows(folder).items()}


def drop_beyond_gaps(folder: str) -> None:
  """Drops the chunks that come after one that is lost.

  The next job makes new ones there, which it cuts elsewhere, so that the old
  ones would not fit. Must not run while a job writes to the folder.
  """
  before = list(Path(folder).glob('*.jsonl'))
  whole = Path(folder) / f'whole-{uuid.uuid4().hex}.tmp'
  with whole.open('w', encoding='utf-8') as file:
    for rows in _read_rows(folder).values():
      by_index = {row['index']: row for row in rows}
      for index in range(_emitted(rows).chunks):
        file.write(json.dumps(by_index[index]) + '\n')
    file.flush()
    os.fsync(file.fileno())
  # If it stops amid this, chunks are there twice.
  whole.rename(whole.with_suffix('.jsonl'))
  for path in before:
    path.unlink()


def read_prompts(path: str) -> list[Prompt]:
  """The prompts of JSON Lines files, each with its id."""
  prompts: list[Prompt] = [
      record for file in find_files(path)
      for record in read_records(file, 'prompt', needs_id=True)
  ]
  if len(dict(prompts)) < len(prompts):
    (key, _), *_ = Counter(key for key, _ in prompts).most_common(1)
    raise command_line.UsageError(
        f'--input={path}: two prompts have the "id" {key}; give each its own.')
  return prompts


def parse_known_args(argv):
  """Parses args for the workflow."""
  parser = command_line.make_parser(
      'apache_beam.examples.inference.iterative_long_generation', __doc__)
  add_model_arguments(parser)
  parser.add_argument(
      '--keep', required=True, help='Path of the folder to keep chunks in.')
  return command_line.parse(parser, argv)


def write_texts(path: str, prompts: Iterable[Prompt], kept) -> None:
  with open(path, 'w', encoding='utf-8') as out:
    for key, prompt in prompts:
      emitted = kept.get(key, Emitted())
      row = {
          'id': key,
          'prompt': prompt,
          'text': emitted.transcript.text,
          'is_finished': emitted.is_finished,
      }
      out.write(json.dumps(row) + '\n')


def run(argv=None) -> None:
  """
  Args:
    argv: Command line arguments defined for this example.
  """
  known_args, pipeline_args = parse_known_args(argv)
  prompts = read_prompts(known_args.input)
  handler, inference_args = make_model_handler(known_args)
  os.makedirs(known_args.keep, exist_ok=True)
  drop_beyond_gaps(known_args.keep)
  kept = read_kept(known_args.keep)
  left = [(key, prompt) for key, prompt in prompts
          if not kept.get(key, Emitted()).is_finished]
  resumed = sum(key in kept for key, _ in left)
  print(
      f'{len(prompts) - len(left)} texts are finished, {resumed} go on, '
      f'{len(left) - resumed} start.',
      flush=True)
  options = IterativeOptions(
      mode='durable',
      request_id_fn=lambda element: element[0][0],
      emitted_fn=lambda element: kept.get(element[0][0]))
  if left:
    with beam.Pipeline(options=PipelineOptions(pipeline_args)) as pipeline:
      _ = (
          pipeline
          | 'Prompts' >> beam.Create([keyed(*prompt) for prompt in left
                                      ]).with_output_types(KeyedPrompt)
          | 'Generate' >> RunInference(
              KeyedModelHandler(handler),
              inference_args=inference_args,
              iterative=options)
          # From here on a chunk comes once, as soon as it is made.
          | 'Commit' >> beam.Reshuffle()
          | 'Keep' >> beam.ParDo(KeepChunks(known_args.keep)))
  write_texts(known_args.output, prompts, read_kept(known_args.keep))


if __name__ == '__main__':
  command_line.run(run)
