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

"""A pipeline that stops a model as soon as its text breaks a rule.

Texts end with a word that is banned, or after so many sentences. The rule is
evaluated where the model runs, with each chunk, so no more tokens are made for
that prompt, which a step after a whole text could not save::

    python -m apache_beam.examples.inference.iterative_guardrail \\
        --input=prompts.txt --output=texts.jsonl \\
        --ban goblin dragon --max_sentences=2 \\
        --handler=hf --model=HuggingFaceTB/SmolLM2-135M-Instruct --chat \\
        --experiments=iterative_inference

The input and the model are those of iterative_text_generation. The output holds
a row for each prompt, with the fields id, prompt, text (up to what broke the
rule), rule, finish_reason, error, tokens (that were made) and saved (at most:
what was left of --max_tokens, which one-shot inference may make). At the end the
sum is printed.
"""

import re
from collections.abc import Iterable
from typing import Any
from typing import NamedTuple
from typing import Optional

import apache_beam as beam
from apache_beam.examples.inference.iterative_text_generation import KeyedChunk
from apache_beam.examples.inference.iterative_text_generation import WriteRows
from apache_beam.examples.inference.iterative_text_generation import add_model_arguments
from apache_beam.examples.inference.iterative_text_generation import make_model_handler
from apache_beam.examples.inference.iterative_text_generation import read_prompts
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import KeyedModelHandler
from apache_beam.ml.inference.base import RunInference
from apache_beam.ml.inference.iterative import FinalsOnly
from apache_beam.ml.inference.iterative import IterativeOptions
from apache_beam.ml.inference.iterative import Progress
from apache_beam.ml.inference.iterative.folds import texts
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.pipeline_options import SetupOptions
from apache_beam.runners.runner import PipelineResult
from apache_beam.utils import command_line


class Guardrail:
  """The rules; a function of a Progress for ``stop_when``.

  Args:
    banned: words, whatever their case.
    max_sentences: how many a text may have; None: any number.
  """
  def __init__(
      self, banned: Iterable[str] = (), max_sentences: int | None = None):
    words = '|'.join(map(re.escape, banned))
    self._banned = re.compile(rf'\b({words})\b', re.I) if words else None
    self._max_sentences = max_sentences

  def __call__(self, progress: Progress) -> bool:
    # The last word may not be complete: "gob" may become "goblin", and "elf"
    # may become "elfin".
    complete = re.sub(r'\w+\Z', '', progress.text)
    return (
        self._first_sentences(progress.text) is not None or
        self.apply(complete)[1] is not None)

  def apply(self, text: str) -> tuple[str, str | None]:
    """The text up to what breaks a rule, and the rule, None if there is none."""
    rule, first = None, self._first_sentences(text)
    if first is not None:
      text, rule = first, 'max_sentences'
    match = self._banned and self._banned.search(text)
    if match:
      return text[:match.start()], f'banned: {match[0].lower()}'
    return text, rule

  def _first_sentences(self, text: str) -> str | None:
    """As many as a text may have, None if it has fewer."""
    if self._max_sentences is None:
      return None
    *sentences, _ = texts.split(text)
    if len(sentences) < self._max_sentences:
      return None
    return ''.join(sentences[:self._max_sentences])


class JudgedText(NamedTuple):
  """A row of the output."""
  id: str
  prompt: str
  text: str
  rule: Optional[str]
  finish_reason: Optional[str]
  error: Optional[str]
  tokens: int
  saved: int


class Judge(beam.DoFn):
  """Cuts whole texts by the rules, and counts the tokens saved."""
  def __init__(self, guardrail: Guardrail, max_tokens: int):
    self._guardrail = guardrail
    self._max_tokens = max_tokens

  def process(self, element: KeyedChunk):
    (key, prompt), chunk = element
    text, rule = self._guardrail.apply(chunk.text)
    tokens = chunk.usage.completion_tokens or 0
    stopped = chunk.finish_reason == 'cancelled'
    saved = max(self._max_tokens - tokens, 0) if stopped else 0
    Metrics.counter('Guardrail', 'prompts').inc()
    Metrics.counter('Guardrail', 'stopped').inc(int(stopped))
    Metrics.counter('Guardrail', 'tokens').inc(tokens)
    Metrics.counter('Guardrail', 'saved').inc(saved)
    yield JudgedText(
        key,
        prompt,
        text,
        rule,
        chunk.finish_reason,
        chunk.error,
        tokens,
        saved)


def parse_known_args(argv):
  """Parses args for the workflow."""
  parser = command_line.make_parser(
      'apache_beam.examples.inference.iterative_guardrail', __doc__)
  add_model_arguments(parser)
  parser.add_argument(
      '--ban', nargs='+', default=(), help='Words that no text may have.')
  parser.add_argument(
      '--max_sentences', type=int, help='How many a text may have.')
  return command_line.parse(parser, argv)


def run(
    argv=None, save_main_session=True, test_pipeline=None) -> PipelineResult:
  """
  Args:
    argv: Command line arguments defined for this example.
    save_main_session: Used for internal testing.
    test_pipeline: Used for internal testing.
  """
  known_args, pipeline_args = parse_known_args(argv)
  if not known_args.ban and known_args.max_sentences is None:
    raise command_line.UsageError(
        'Give a rule: --ban, --max_sentences or both.')
  pipeline_options = PipelineOptions(pipeline_args)
  pipeline_options.view_as(SetupOptions).save_main_session = save_main_session
  handler, inference_args = make_model_handler(known_args)
  guardrail = Guardrail(known_args.ban, known_args.max_sentences)

  pipeline = test_pipeline or beam.Pipeline(options=pipeline_options)
  _ = (
      read_prompts(pipeline, known_args.input)
      | 'Generate' >> RunInference(
          KeyedModelHandler(handler),
          inference_args=inference_args,
          # Chunks of few tokens: what is made until the next one is wasted.
          iterative=IterativeOptions(
              mode=known_args.mode, chunk_tokens=2, stop_when=guardrail))
      | 'Finals' >> FinalsOnly()
      | 'Judge' >> beam.ParDo(Judge(
          guardrail, known_args.max_tokens)).with_output_types(JudgedText)
      | 'Write' >> WriteRows(known_args.output))

  result = pipeline.run()
  result.wait_until_finish()
  return result


def summary(result: PipelineResult) -> str:
  """One line of what was saved."""
  found = result.metrics().query(
      beam.metrics.MetricsFilter().with_namespace('Guardrail'))
  counts: dict[str, Any] = {
      counter.key.metric.name: counter.result
      for counter in found['counters']
  }
  if not counts:
    return 'There was no prompt.'
  return (
      f"{counts['stopped']} of {counts['prompts']} prompts were stopped: "
      f"{counts['tokens']} tokens made, up to {counts['saved']} more would be "
      'by one-shot inference')


def main() -> None:
  print(summary(run()))


if __name__ == '__main__':
  command_line.run(main)
