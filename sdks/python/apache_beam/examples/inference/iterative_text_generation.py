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

"""A pipeline that generates text, and hands it on while it grows.

For each prompt of a file it writes the chunks of the text, or with --finals one
row with all of it::

    python -m apache_beam.examples.inference.iterative_text_generation \\
        --input=prompts.jsonl --output=chunks.jsonl --live \\
        --handler=hf --model=HuggingFaceTB/SmolLM2-135M-Instruct \\
        --experiments=iterative_inference

The input is a text file, one prompt per line, or a JSON Lines file (.jsonl) of
objects with a "prompt" and, optionally, an "id"; without it the number of the
line is the id. The output is a Parquet file if its name ends in .parquet, JSON
Lines otherwise. Each row has the fields id, prompt, request_id, index and text;
the last one of a prompt also finish_reason, error, tokens, first_token_secs,
total_secs and model, which are null before. A prompt that fails gives a last
chunk with an error, and no others fail with it.

Rows with a schema fit other sinks as well. Those for BigQuery take dicts::

    rows | beam.Map(lambda row: row._asdict()) | beam.io.WriteToBigQuery(
        'project:dataset.chunks', schema=bigquery_schema(rows.element_type))

The text is generated

- ``--handler=hf``: in process, by a Hugging Face model, a folder or a name,
- ``--handler=openai``: by a server with OpenAI's API, such as vLLM, at --url,
- ``--handler=generator``: by a generator function in this file which stands in
  for a model and says the words of the prompt again, to try things out.

With --live the texts are shown on the terminal of the worker while they grow:
this one, if the runner is FnApiRunner or PrismRunner. A text that grows has one
line, which shows the end of it; when it ends it is shown whole. In the mode
in_bundle that needs a step right after RunInference, as here; with
--mode=durable steps after a shuffle see each chunk as it is made, too.
"""

import argparse
import dataclasses
import json
import logging
import shutil
import sys
import time
import unicodedata
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any
from typing import TextIO

import apache_beam as beam
from apache_beam.examples.inference.text_records import ReadRecords
from apache_beam.examples.inference.text_records import input_help
from apache_beam.ml.inference.base import KeyedModelHandler
from apache_beam.ml.inference.base import RunInference
from apache_beam.ml.inference.iterative import AsRows
from apache_beam.ml.inference.iterative import Chunk
from apache_beam.ml.inference.iterative import FinalsOnly
from apache_beam.ml.inference.iterative import GeneratorModelHandler
from apache_beam.ml.inference.iterative import IterativeOptions
from apache_beam.ml.inference.iterative import SessionModelHandler
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.pipeline_options import SetupOptions
from apache_beam.runners.runner import PipelineResult
from apache_beam.utils import command_line

_LOGGER = logging.getLogger(__name__)
# Of a prompt, before each of its chunks.
_NAME_COLUMNS = 40
# The id of a prompt, and the prompt. It is the key of each chunk, too.
Prompt = tuple[str, str]
KeyedPrompt = tuple[Prompt, str]
KeyedChunk = tuple[Prompt, Chunk]
# The fields of a row, and the columns of AsRows that they are.
_FIELDS = {
    'id': 'key',
    'prompt': 'example',
    'request_id': 'request_id',
    'index': 'index',
    'text': 'text',
    'finish_reason': 'finish_reason',
    'error': 'error',
    'tokens': 'completion_tokens',
    'first_token_secs': 'first_token_secs',
    'total_secs': 'total_secs',
    'model': 'model_id',
}


def repeat_words(batch: list[str], model: float,
                 args: Mapping[str, Any]) -> Iterable[tuple[int, str]]:
  """Stands in for a model: says the words of each prompt again.

  Args:
    batch: the prompts.
    model: how many seconds a word takes.
    args: with max_tokens.

  Yields:
    Positions in the batch, and a word for each.
  """
  texts = [prompt.split() for prompt in batch]
  for step in range(min(args['max_tokens'], max(map(len, texts)))):
    time.sleep(model)
    for position, words in enumerate(texts):
      if step < len(words):
        yield position, words[step] + ' '


def make_model_handler(args) -> tuple[SessionModelHandler, dict[str, Any]]:
  """The handler that the arguments describe, and its inference_args."""
  if args.handler == 'generator':
    return (
        GeneratorModelHandler(lambda: 0.05, repeat_words, model_id='words'), {
            'max_tokens': args.max_tokens
        })
  if not args.model:
    raise command_line.UsageError(
        f'--handler={args.handler} needs --model: what generates the text.')
  if args.handler == 'hf':
    command_line.check_model(args.model)
    from apache_beam.ml.inference.huggingface_generation import HuggingFaceGenerationModelHandler
    return (
        HuggingFaceGenerationModelHandler(args.model, chat=args.chat), {
            'max_new_tokens': args.max_tokens
        })
  if not args.url:
    raise command_line.UsageError(
        '--handler=openai needs --url: the address of the server, with its /v1.'
    )
  from apache_beam.ml.inference import openai_inference
  handler_class = (
      openai_inference.OpenAIChatModelHandler
      if args.chat else openai_inference.OpenAICompletionsModelHandler)
  return (
      handler_class(args.url, args.model, api_key_env=args.api_key_env), {
          'max_tokens': args.max_tokens, 'temperature': 0
      })


class LiveText(beam.DoFn):
  """Shows texts on a terminal while they grow, each with its prompt.

  Args:
    open_terminal: gives what to write to; called on the worker. If that is no
      terminal, chunks are written one below the other.
    width: in columns; None for that of the terminal.
  """
  def __init__(
      self,
      open_terminal: Callable[[], TextIO] = lambda: sys.stderr,
      width: int | None = None):
    self._open_terminal = open_terminal
    self._width = width

  def setup(self):
    self._terminal = self._open_terminal()
    # By request, of those that grow.
    self._texts: dict[str, str] = {}

  def process(self, element: KeyedChunk):
    (_, prompt), chunk = element
    prompt = _printable(prompt)
    end = f' [{chunk.error or chunk.finish_reason}]' if chunk.is_last else ''
    if not self._terminal.isatty():
      name = _fit(prompt, _NAME_COLUMNS)
      self._terminal.write(f'{name}: {_printable(chunk.text)}{end}\n')
    else:
      above = len(self._texts)
      text = self._texts.pop(chunk.request_id, f'{prompt}: ')
      text += _printable(chunk.text) + end
      if not chunk.is_last:
        self._texts[chunk.request_id] = text
      self._show(above, whole=text if chunk.is_last else None)
    self._terminal.flush()
    yield element

  def _show(self, above, whole):
    """Replaces the lines above; a whole text stays over those that grow."""
    lines = [] if whole is None else [whole]
    width = self._width or shutil.get_terminal_size().columns - 1
    lines += [_fit(text, width) for text in self._texts.values()]
    up = f'\033[{above}A' if above else ''
    # \033[J: nothing is left of the lines that were there.
    self._terminal.write(up + '\033[J' + ''.join(f'{line}\n' for line in lines))


def _printable(text):
  return ''.join(c if c.isprintable() else ' ' for c in text)


def _fit(text, width):
  """The start of a text, which names it, an ellipsis and its end, in a line."""
  if _columns(text) <= width:
    return text
  start, end = text[:width // 3], text
  while _columns(start) > width // 3:
    start = start[:-1]
  # As many as fit if each is narrow, then fewer.
  end = text[-(width - _columns(start) - 1):]
  while _columns(start) + 1 + _columns(end) > width:
    end = end[1:]
  return f'{start}…{end}'


def _columns(text):
  """How many columns of a terminal a text takes: two for wide characters."""
  return sum(1 + (unicodedata.east_asian_width(c) in 'WF') for c in text)


class ReportProgress(beam.DoFn):
  """Logs how many prompts this worker has finished, every few seconds."""
  def __init__(self, every_secs: float = 5, clock: Callable = time.monotonic):
    self._every_secs = every_secs
    self._clock = clock

  def setup(self):
    self._start = self._last = self._clock()
    self._done = self._tokens = 0

  def process(self, element: KeyedChunk):
    _, chunk = element
    if chunk.is_last:
      self._done += 1
      self._tokens += chunk.usage.completion_tokens or 0
    now = self._clock()
    if now - self._last >= self._every_secs:
      self._last = now
      _LOGGER.info(
          '%d prompts done, %.1f tokens a second',
          self._done,
          self._tokens / (now - self._start))
    yield element


def with_prompt(element: KeyedChunk) -> tuple[str, Chunk[str]]:
  """Names the prompt in each chunk, not only in the last one."""
  (key, prompt), chunk = element
  return key, dataclasses.replace(chunk, example=prompt)


class WriteRows(beam.PTransform):
  """Writes rows to a file: Parquet if it ends in .parquet, or JSON Lines."""
  def __init__(self, path: str):
    super().__init__()
    self._path = path

  def expand(self, rows):
    one_file = {'num_shards': 1, 'shard_name_template': ''}
    if self._path.endswith('.parquet'):
      return rows | beam.io.WriteToParquet(self._path, **one_file)
    return (
        rows
        | 'ToJson' >>
        beam.Map(lambda row: json.dumps(row._asdict(), ensure_ascii=False))
        | beam.io.WriteToText(self._path, **one_file))


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
  """Those of the files and the model."""
  parser.add_argument('--input', required=True, help=input_help('prompt'))
  parser.add_argument(
      '--output',
      required=True,
      help='Path of the file to write, Parquet (.parquet) or JSON Lines.')
  parser.add_argument(
      '--handler',
      choices=('hf', 'openai', 'generator'),
      default='hf',
      help='What generates: a model in process, a server, or a stand-in.')
  parser.add_argument(
      '--model',
      help='A folder or a name on the Hugging Face Hub, or what the server '
      'calls it.')
  parser.add_argument('--url', help='Of the server, with its /v1.')
  parser.add_argument(
      '--api_key_env',
      help='The environment variable of the workers with the key.')
  parser.add_argument(
      '--chat',
      action='store_true',
      help='Put prompts to the model as messages of a user.')
  parser.add_argument(
      '--max_tokens',
      type=int,
      default=64,
      help='The most tokens to generate for a prompt.')
  parser.add_argument(
      '--mode',
      choices=('in_bundle', 'durable'),
      default='in_bundle',
      help='Where chunks are seen before the bundle ends: in fused steps, or '
      'after shuffles too.')


def parse_known_args(argv):
  """Parses args for the workflow."""
  parser = command_line.make_parser(
      'apache_beam.examples.inference.iterative_text_generation', __doc__)
  add_model_arguments(parser)
  parser.add_argument(
      '--finals',
      action='store_true',
      help='Write one row for each prompt, with the whole text.')
  parser.add_argument(
      '--live',
      action='store_true',
      help='Show the texts on the terminal while they grow.')
  return command_line.parse(parser, argv)


def keyed(key: str, prompt: str) -> KeyedPrompt:
  return (key, prompt), prompt


def read_prompts(pipeline: beam.Pipeline,
                 path: str) -> beam.PCollection[KeyedPrompt]:
  return (
      pipeline
      | 'Read' >> ReadRecords(path, 'prompt')
      | 'Key' >> beam.MapTuple(keyed).with_output_types(KeyedPrompt))


def run(
    argv=None, save_main_session=True, test_pipeline=None) -> PipelineResult:
  """
  Args:
    argv: Command line arguments defined for this example.
    save_main_session: Used for internal testing.
    test_pipeline: Used for internal testing.
  """
  known_args, pipeline_args = parse_known_args(argv)
  pipeline_options = PipelineOptions(pipeline_args)
  pipeline_options.view_as(SetupOptions).save_main_session = save_main_session
  handler, inference_args = make_model_handler(known_args)

  pipeline = test_pipeline or beam.Pipeline(options=pipeline_options)
  chunks = (
      read_prompts(pipeline, known_args.input)
      | 'Generate' >> RunInference(
          KeyedModelHandler(handler),
          inference_args=inference_args,
          iterative=IterativeOptions(mode=known_args.mode)))
  if known_args.live:
    live = beam.ParDo(LiveText())
    chunks |= 'Live' >> live.with_output_types(chunks.element_type)
  else:
    progress = beam.ParDo(ReportProgress())
    chunks |= 'Progress' >> progress.with_output_types(chunks.element_type)
  if known_args.finals:
    chunks |= 'Finals' >> FinalsOnly()
  _ = (
      chunks
      | 'Prompts' >> beam.Map(with_prompt)
      | 'Rows' >> AsRows()
      | 'Fields' >> beam.Select(**_FIELDS)
      | 'Write' >> WriteRows(known_args.output))

  result = pipeline.run()
  result.wait_until_finish()
  return result


def summary(result: PipelineResult) -> str:
  """One line of what the pipeline counted."""
  metrics = result.metrics().query()
  counters = {c.key.metric.name: c.result for c in metrics['counters']}
  found = (
      f"{counters.get('num_inferences', 0)} prompts, "
      f"{counters.get('tokens', 0)} tokens in {counters.get('chunks', 0)} chunks"
  )
  for distribution in metrics['distributions']:
    if distribution.key.metric.name == 'ttft_msec':
      found += f', first token after {distribution.result.mean:.0f} ms on average'
  return found


def main() -> None:
  print(summary(run()))


if __name__ == '__main__':
  command_line.run(main)
