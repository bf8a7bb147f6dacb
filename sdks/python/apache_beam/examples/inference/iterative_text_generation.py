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
line with all of it::

    python -m apache_beam.examples.inference.iterative_text_generation \
        --input=prompts.jsonl --output=chunks.jsonl --live \
        --handler=hf --model=HuggingFaceTB/SmolLM2-135M-Instruct \
        --experiments=iterative_inference

The input is a text file, one prompt per line, or a JSON Lines file (.jsonl) of
objects with a "prompt" and, optionally, an "id". The output is JSON Lines. A
prompt that fails gives a last chunk with an error, and no others fail with it.

The text is generated

- ``--handler=hf``: in process, by a Hugging Face model, a folder or a name,
- ``--handler=openai``: by a server with OpenAI's API, such as vLLM, at --url,
- ``--handler=generator``: by a generator function in this file which stands in
  for a model and says the words of the prompt again, to try things out.

With --live the texts are shown on the terminal of the worker while they grow:
this one, if the runner is FnApiRunner or PrismRunner. In the mode in_bundle
that needs a step right after RunInference, as here; with --mode=durable steps
after a shuffle see each chunk as it is made, too.
"""

import argparse
import contextlib
import json
import logging
import signal
import sys
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any
from typing import TextIO

import apache_beam as beam
from apache_beam.ml.inference.base import KeyedModelHandler
from apache_beam.ml.inference.base import RunInference
from apache_beam.ml.inference.iterative import Chunk
from apache_beam.ml.inference.iterative import FinalsOnly
from apache_beam.ml.inference.iterative import GeneratorModelHandler
from apache_beam.ml.inference.iterative import IterativeOptions
from apache_beam.ml.inference.iterative import SessionModelHandler
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.pipeline_options import SetupOptions
from apache_beam.runners.runner import PipelineResult

# An element is a pair of the prompt's id, which may be None, and the prompt.
KeyedPrompt = tuple[str | None, str]


def parse_text(line: str) -> Iterable[KeyedPrompt]:
  """Makes a prompt of a line of a text file; empty lines hold none."""
  if line.strip():
    yield None, line


def parse_json(line: str) -> Iterable[KeyedPrompt]:
  """Makes a prompt of a line of a JSON Lines file."""
  if not line.strip():
    return
  try:
    record = json.loads(line)
    prompt = record['prompt']
  except (ValueError, KeyError, TypeError):
    prompt = None
  if not isinstance(prompt, str):
    raise ValueError(
        '--input: expected a JSON object with a string "prompt", got '
        f'{line:.200}')
  identity = record.get('id')
  yield None if identity is None else str(identity), prompt


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
    raise ValueError(f'--handler={args.handler} needs --model.')
  if args.handler == 'hf':
    from apache_beam.ml.inference.huggingface_generation import HuggingFaceGenerationModelHandler
    return (
        HuggingFaceGenerationModelHandler(args.model, chat=args.chat), {
            'max_new_tokens': args.max_tokens
        })
  if not args.url:
    raise ValueError('--handler=openai needs --url.')
  from apache_beam.ml.inference import openai_inference
  handler_class = (
      openai_inference.OpenAIChatModelHandler
      if args.chat else openai_inference.OpenAICompletionsModelHandler)
  return (
      handler_class(args.url, args.model, api_key_env=args.api_key_env), {
          'max_tokens': args.max_tokens, 'temperature': 0
      })


class LiveText(beam.DoFn):
  """Shows texts on a terminal while they grow; a line for each prompt.

  Args:
    open_terminal: gives what to write to; called on the worker. If that is no
      terminal, chunks are written one below the other.
    width: in characters.
  """
  def __init__(
      self,
      open_terminal: Callable[[], TextIO] = lambda: sys.stderr,
      width: int = 79):
    self._open_terminal = open_terminal
    self._width = width

  def setup(self):
    self._terminal = self._open_terminal()
    self._lines: dict[str, str] = {}

  def process(self, element: tuple[str | None, Chunk]):
    key, chunk = element
    name = key or chunk.request_id[:6]
    text = _one_line(chunk.text) + (
        f' [{chunk.error or chunk.finish_reason}]' if chunk.is_last else '')
    if not self._terminal.isatty():
      self._terminal.write(f'{name}: {text}\n')
    else:
      # Back to the first line.
      up = f'\033[{len(self._lines)}A' if self._lines else ''
      before = self._lines.get(chunk.request_id, f'{name}: ')
      self._lines[chunk.request_id] = before + text
      self._terminal.write(
          up + ''.join(
              f'\033[K{self._fit(line)}\n' for line in self._lines.values()))
    self._terminal.flush()
    yield element

  def _fit(self, line):
    """The start of a line, which names it, and its end."""
    if len(line) <= self._width:
      return line
    return line[:10] + '...' + line[13 - self._width:]


def _one_line(text):
  return ''.join(c if c.isprintable() else ' ' for c in text)


class ReportProgress(beam.DoFn):
  """Logs how many prompts this worker has finished, every few seconds."""
  def __init__(self, every_secs: float = 5, clock: Callable = time.monotonic):
    self._every_secs = every_secs
    self._clock = clock

  def setup(self):
    self._start = self._last = self._clock()
    self._done = self._tokens = 0

  def process(self, element: tuple[str | None, Chunk]):
    _, chunk = element
    if chunk.is_last:
      self._done += 1
      self._tokens += chunk.usage.completion_tokens or 0
    now = self._clock()
    if now - self._last >= self._every_secs:
      self._last = now
      logging.info(
          '%d prompts done, %.1f tokens a second',
          self._done,
          self._tokens / (now - self._start))
    yield element


def to_row(element: tuple[str | None, Chunk]) -> dict[str, Any]:
  """What is written of a chunk; of the last one, how it ended."""
  key, chunk = element
  row = {
      'id': key,
      'request_id': chunk.request_id,
      'index': chunk.index,
      'text': chunk.text,
  }
  if chunk.is_last:
    row.update(
        prompt=chunk.example,
        finish_reason=chunk.finish_reason,
        error=chunk.error,
        tokens=chunk.usage.completion_tokens,
        first_token_secs=chunk.timings.first,
        total_secs=chunk.timings.total,
        model=chunk.model_id)
  return row


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
  """Those of the files and the model."""
  parser.add_argument(
      '--input',
      required=True,
      help='Path of a text file, or of a JSON Lines file (.jsonl).')
  parser.add_argument(
      '--output', required=True, help='Path of the JSON Lines file to write.')
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
  parser = argparse.ArgumentParser()
  add_model_arguments(parser)
  parser.add_argument(
      '--finals',
      action='store_true',
      help='Write one line for each prompt, with the whole text.')
  parser.add_argument(
      '--live',
      action='store_true',
      help='Show the texts on the terminal while they grow.')
  return parser.parse_known_args(argv)


def read_prompts(pipeline: beam.Pipeline,
                 path: str) -> beam.PCollection[KeyedPrompt]:
  parse = parse_json if path.endswith('.jsonl') else parse_text
  return (
      pipeline
      | 'Read' >> beam.io.ReadFromText(path)
      | 'Parse' >> beam.FlatMap(parse).with_output_types(KeyedPrompt))


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
      | 'ToRow' >> beam.Map(to_row)
      | 'ToJson' >> beam.Map(json.dumps)
      | 'Write' >> beam.io.WriteToText(
          known_args.output, num_shards=1, shard_name_template=''))

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


@contextlib.contextmanager
def status_of_interrupts() -> Iterator[None]:
  """Ends the program with one line, and the status of shells, at Ctrl-C."""
  try:
    yield
  except KeyboardInterrupt:
    print('Interrupted.', file=sys.stderr)
    sys.exit(128 + signal.SIGINT)


if __name__ == '__main__':
  logging.getLogger().setLevel(logging.INFO)
  with status_of_interrupts():
    print(summary(run()))
