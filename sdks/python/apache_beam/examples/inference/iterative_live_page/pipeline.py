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

"""A pipeline whose texts grow on a web page while a model writes them.

The same prompts go through RunInference twice at the same time: one-shot, which
gives whole results, and iterative, which gives chunks. Behind a shuffle each
result and each chunk is posted to a small server on this machine, and a page
shows both side by side, with the time to the first token::

    python -m apache_beam.examples.inference.iterative_live_page \\
        --experiments=iterative_inference --runner=PrismRunner

prints the address to open; the pipeline starts when the page is open. Without
``--model`` a fake engine makes words of digits by the clock, and the difference
is that of the pipelines alone; with ``--model=FOLDER`` a Hugging Face model
writes, and both ways share the machine.

With ``--mode=in_bundle`` chunks pass the shuffle only when their bundle ends.
"""

import contextlib
import statistics
import threading
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
from apache_beam.examples.inference.iterative_live_page.board import ITERATIVE
from apache_beam.examples.inference.iterative_live_page.board import ONE_SHOT
from apache_beam.examples.inference.iterative_live_page.board import Board
from apache_beam.examples.inference.iterative_live_page.feed import Feed
from apache_beam.examples.inference.iterative_live_page.post import Post
from apache_beam.examples.inference.iterative_live_page.post import chunk_message
from apache_beam.examples.inference.iterative_live_page.post import result_message
from apache_beam.examples.inference.iterative_live_page.post import start_message
from apache_beam.examples.inference.iterative_live_page.server import LiveServer
from apache_beam.examples.inference.text_records import find_files
from apache_beam.examples.inference.text_records import read_records
from apache_beam.ml.inference.base import KeyedModelHandler
from apache_beam.ml.inference.base import ModelHandler
from apache_beam.ml.inference.base import RunInference
from apache_beam.ml.inference.iterative import IterativeOptions
from apache_beam.ml.inference.iterative import registry
from apache_beam.ml.inference.iterative.handler import SupportsSessions
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.pipeline_options import StandardOptions
from apache_beam.runners.runner import PipelineResult
from apache_beam.testing.inference.clock_session import ClockModelHandler
from apache_beam.utils import command_line

PROMPTS = (
    'Explain why the sky is blue.',
    'Write a short story about a lighthouse keeper.',
    'How does a bicycle stay upright?',
    'Give me a recipe for pancakes.',
)
# Of the session that the iterative way uses.
_MODEL = 'iterative_live_page'
_MOST_PROMPTS = 64


def build(
    pipeline: beam.Pipeline,
    prompts: Sequence[str],
    handler: ModelHandler,
    options: IterativeOptions,
    port: int,
    inference_args: dict[str, Any] | None = None) -> None:
  """Adds both ways to a pipeline; each posts to the server at that port."""
  numbered = pipeline | 'Prompts' >> beam.Create(list(enumerate(prompts)))
  keyed = KeyedModelHandler(handler)
  for way, message_of, kwargs in (
      (ONE_SHOT, result_message, {}),
      (ITERATIVE,
       chunk_message, {
           'iterative': options, 'model_identifier': _MODEL
       })):
    _ = (
        numbered
        # Else the ways would wait for each other, in one stage.
        | f'Part {way}' >> beam.Reshuffle()
        | f'Start {way}' >> beam.ParDo(Post(port, way, start_message))
        | f'Generate {way}' >> RunInference(
            keyed, inference_args=inference_args, **kwargs)
        | f'Shuffle {way}' >> beam.Reshuffle()
        | f'Show {way}' >> beam.ParDo(Post(port, way, message_of)))


@contextlib.contextmanager
def loaded(pipeline: beam.Pipeline,
           handler: SupportsSessions) -> Iterator[None]:
  """Keeps the model of the iterative way loaded in this process.

  The one-shot way loads its own before it is handed a prompt, so that neither
  counts as time to a first token; where workers are other processes, as they
  are not with Prism, the iterative one still does.
  """
  lease = registry.acquire_open(
      registry.session_key(pipeline, _MODEL), handler.open_session)
  try:
    yield
  finally:
    lease.release()


def make_model_handler(
    known_args, count: int) -> tuple[ModelHandler, dict[str, Any] | None, str]:
  """A handler that takes all prompts at once, its inference args and a name."""
  batch = {'min_batch_size': count, 'max_batch_size': count}
  if known_args.model is None:
    handler = ClockModelHandler(known_args.max_tokens, known_args.rate, **batch)
    name = f'a fake engine, {known_args.rate:g} tokens a second'
    return handler, None, name
  command_line.check_model(known_args.model)
  from apache_beam.ml.inference.huggingface_generation import HuggingFaceGenerationModelHandler
  handler = HuggingFaceGenerationModelHandler(
      known_args.model, chat=True, **batch)
  args = {'max_new_tokens': known_args.max_tokens}
  return handler, args, known_args.model.rstrip('/').rpartition('/')[2]


def read_prompts(path: str | None) -> Sequence[str]:
  """The prompts of a file; without one, PROMPTS.

  Raises:
    UsageError: if there are none, or too many for a page.
  """
  if path is None:
    return PROMPTS
  prompts = [
      record.text.strip() for file in find_files(path, '--prompts')
      for record in read_records(file, 'prompt')
  ]
  if not 0 < len(prompts) <= _MOST_PROMPTS:
    raise command_line.UsageError(
        f'--prompts={path}: holds {len(prompts)} prompts, and a page shows from '
        f'1 to {_MOST_PROMPTS}. Give another file.')
  return prompts


def summary(snapshot: dict[str, Any]) -> Iterable[str]:
  """Lines that say what a page showed."""
  for way in (ONE_SHOT, ITERATIVE):
    lanes = [lane for lane in snapshot['lanes'] if lane['way'] == way]
    first = [lane['first'] for lane in lanes if lane['first'] is not None]
    done = [lane['elapsed'] for lane in lanes if lane['finish_reason']]
    yield (
        f'{way}: first token after {statistics.median(first):.2f} s (median), '
        f'{len(done)} of {len(lanes)} done after {max(done):.2f} s'
        if first and done else f'{way}: nothing came')


def parse_known_args(argv):
  """Parses args for the workflow."""
  parser = command_line.make_parser(
      'apache_beam.examples.inference.iterative_live_page', __doc__)
  parser.add_argument(
      '--model',
      help='A Hugging Face model that generates text, a folder or a name. '
      'Default: a fake engine whose tokens come by the clock.')
  parser.add_argument(
      '--prompts',
      help='Path of a text file, one prompt per line, or of a JSON Lines file '
      '(.jsonl) of objects with a "prompt". Default: four that are built in.')
  parser.add_argument(
      '--max_tokens',
      type=int,
      default=64,
      help='The largest number of tokens of a text.')
  parser.add_argument(
      '--rate',
      type=float,
      default=20,
      help='Tokens a second for each prompt, of the fake engine.')
  parser.add_argument(
      '--mode',
      choices=('durable', 'in_bundle'),
      default='durable',
      help='Of IterativeOptions: where chunks are seen before a bundle ends.')
  parser.add_argument(
      '--chunk_tokens',
      type=int,
      default=4,
      help='Of IterativeOptions: the most tokens of a chunk.')
  parser.add_argument(
      '--port',
      type=int,
      default=0,
      help='Where the page is served on 127.0.0.1. Default: a free one.')
  parser.add_argument(
      '--start_at_once',
      action='store_true',
      help='Starts the pipeline before the page is open.')
  parser.add_argument(
      '--exit_when_done',
      action='store_true',
      help='Ends when the pipeline has, instead of serving the page on.')
  return command_line.parse(parser, argv)


def run(argv=None, test_pipeline=None, model_handler=None) -> PipelineResult:
  """
  Args:
    argv: Command line arguments defined for this example.
    test_pipeline: Used for internal testing.
    model_handler: Used for internal testing, in place of the one that the
      arguments describe.
  """
  known_args, pipeline_args = parse_known_args(argv)
  options = PipelineOptions(pipeline_args)
  prompts = read_prompts(known_args.prompts)
  handler, inference_args, name = make_model_handler(known_args, len(prompts))
  about = {
      'model': name,
      'mode': f'mode {known_args.mode}',
      'runner': options.view_as(StandardOptions).runner or 'default runner',
      'place': 'seen after a Reshuffle',
  }
  handler = model_handler or handler
  pipeline = test_pipeline or beam.Pipeline(options=options)
  feed = Feed(Board(prompts, about, known_args.max_tokens))
  with loaded(pipeline, handler), LiveServer(feed, known_args.port) as server:
    build(
        pipeline,
        prompts,
        handler,
        IterativeOptions(
            mode=known_args.mode, chunk_tokens=known_args.chunk_tokens),
        server.port,
        inference_args)
    if known_args.start_at_once:
      print(f'The page is at {server.url}', flush=True)
    else:
      print(f'Open {server.url} to start the pipeline.', flush=True)
      feed.wait_for_watcher()
    result = _run(pipeline, feed)
    print(*summary(feed.snapshot()), sep='\n', flush=True)
    if not known_args.exit_when_done:
      print('Press Ctrl-C to end.', flush=True)
      threading.Event().wait()
  return result


def _run(pipeline, feed):
  feed.set_status('running')
  try:
    result = pipeline.run()
    result.wait_until_finish()
  except BaseException:
    feed.set_status('failed')
    raise
  feed.set_status('done')
  return result
