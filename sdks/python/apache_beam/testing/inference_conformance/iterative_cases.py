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

"""What iterative inference guarantees."""

import functools
import time

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference
from apache_beam.ml.inference.iterative import FoldToPredictionResult
from apache_beam.ml.inference.iterative import IterativeOptions
from apache_beam.testing.inference.clock_session import ClockModelHandler
from apache_beam.testing.inference.clock_session import clock_text
from apache_beam.testing.inference.clock_session import clock_token_ids
from apache_beam.testing.inference_conformance import case
from apache_beam.testing.inference_conformance import observations
from apache_beam.testing.inference_conformance.case import Case
from apache_beam.transforms.periodicsequence import PeriodicImpulse

ITERATIVE = 'iterative_inference'
PROMPTS = tuple(f'prompt {i}' for i in range(8))
PROMPT_SECS = 0.5
TOKENS = 24
TOKENS_PER_SEC = 12.0


def _prompts(p, bad=False):
  prompts = [*PROMPTS, 'bad'] if bad else PROMPTS
  return p | beam.Create(prompts) | 'Spread' >> beam.Reshuffle()


class _Handler(ClockModelHandler):
  """Tokens by the clock; one prompt is refused."""
  def prompt_of(self, example):
    if example == 'bad':
      raise ValueError('it is bad')
    return example


def _infer(mode, **options):
  return RunInference(
      _Handler(TOKENS, TOKENS_PER_SEC),
      iterative=IterativeOptions(
          mode=mode, chunk_secs=0.25, request_id_fn=str, **options))


class _DescribeChunk(beam.DoFn):
  def process(self, chunk):
    yield (
        chunk.request_id,
        chunk.index,
        chunk.is_last,
        chunk.text,
        chunk.error,
        time.time())


def _chunks(mode, p):
  return (
      _prompts(p, bad=True) | _infer(mode) | beam.Reshuffle()
      | beam.ParDo(_DescribeChunk()))


def _folded(mode, p):
  return (
      _prompts(p) | _infer(mode)
      | FoldToPredictionResult()
      | beam.Map(
          lambda result:
          (result.example, 0, True, result.inference.text, None, 0.0)))


def _failed_chunks(mode, p):
  good, bad = _prompts(p, bad=True) | _infer(mode).with_exception_handling()
  return (
      good | beam.Reshuffle() | beam.ParDo(_DescribeChunk()),
      bad.failed_inferences
      | beam.Map(lambda dead: (dead[0][0], 0, True, '', 'dead letter', 0.0))
  ) | beam.Flatten()


class _Prompt(beam.DoFn):
  """A prompt with the time at which it came."""
  def process(self, at):
    yield f'{float(at):.3f} {time.time():.3f}'


def _out_of_step(p):
  start = case.start()
  return (
      p | PeriodicImpulse(start, start + case.ARRIVAL_SECS, PROMPT_SECS)
      | beam.ParDo(_Prompt())
      | _infer('durable')
      | beam.Reshuffle()
      | beam.ParDo(_DescribeChunk()))


def whole_text(prompt: str) -> str:
  return clock_text(clock_token_ids(prompt, 0, TOKENS))


_TEXTS = {prompt: whole_text(prompt) for prompt in PROMPTS}
_judge_chunks = functools.partial(observations.of_chunks, texts=_TEXTS)

CASES: dict[str, Case] = {}
for _mode in ('in_bundle', 'durable'):
  _name = _mode.replace('_', '-')
  CASES |= {
      f'{_name}-chunks': Case(
          f'{_mode}: each chunk once, in order, whole texts; one bad prompt '
          'harms no other',
          ITERATIVE,
          functools.partial(_chunks, _mode),
          functools.partial(_judge_chunks, failed='invalid')),
      f'{_name}-folds': Case(
          f'{_mode}: folds put texts together again after a shuffle',
          ITERATIVE,
          functools.partial(_folded, _mode),
          _judge_chunks),
      f'{_name}-metrics': Case(
          f'{_mode}: the metrics of partial results arrive',
          ITERATIVE,
          functools.partial(_folded, _mode),
          _judge_chunks,
          metrics=('chunks', 'tokens', 'ttft_msec', 'num_inferences')),
      f'{_name}-dead-letters': Case(
          f'{_mode}: a bad prompt is a dead letter, and nothing else is',
          ITERATIVE,
          functools.partial(_failed_chunks, _mode),
          functools.partial(_judge_chunks, failed='dead letter')),
  }
CASES |= {
    'durable-first-chunk': Case(
        'durable: after a shuffle the first chunk of each text is seen before '
        'the last of others',
        ITERATIVE,
        functools.partial(_chunks, 'durable'),
        functools.partial(
            _judge_chunks, failed='invalid', first_before_last=True),
        needs_streaming=True),
    'durable-out-of-step': Case(
        'durable: requests that start one after another hold up none',
        ITERATIVE,
        _out_of_step,
        functools.partial(
            observations.of_arrivals,
            count=round(case.ARRIVAL_SECS / PROMPT_SECS),
            text_of=whole_text,
            most_secs=TOKENS / TOKENS_PER_SEC + case.TIMER_SECS),
        needs_streaming=True),
}
