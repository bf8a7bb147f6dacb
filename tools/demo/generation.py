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

"""When the text of each prompt is seen, one-shot against iterative."""

import logging

from apache_beam.ml.inference.huggingface_generation import HuggingFaceGenerationModelHandler
from apache_beam.testing.benchmarks import iterative_inference_benchmark as benchmark
from apache_beam.testing.benchmarks.iterative_inference_recording import id_of
from tools.layout import Layout
from tools.smollm import NAME

PROMPTS = (
    'Why is the sky blue?',
    'Name three rivers.',
    'Tell me about a lighthouse.',
    'How do I boil an egg?',
)
_TOKENS = 40
_WAYS = ('one_shot', 'in_bundle_fused')


def run(layout: Layout, tokens: int = _TOKENS) -> dict[str, benchmark.Outcome]:
  """Generates for the prompts both ways, with a model that is loaded."""
  # The continuous batching of transformers says how it sets itself up.
  logging.getLogger('ContinuousBatchingLogger').setLevel(logging.ERROR)
  handler = HuggingFaceGenerationModelHandler(
      str(layout.build / 'models' / NAME), chat=True)
  engine = benchmark.Engine(
      handler, {'max_new_tokens': tokens}, {'max_new_tokens': 2})
  return {
      name: benchmark.run_way(
          benchmark.WAYS[name], engine, PROMPTS, ['--runner=FnApiRunner'])
      for name in _WAYS
  }


def table(outcomes: dict[str, benchmark.Outcome]) -> str:
  """A line for each prompt; seconds from when the first was submitted."""
  lines = [
      '| prompt | one-shot: first token | end | iterative: first token | end | '
      'chunks | begin of the text |',
      '|' + '---|' * 7
  ]
  for prompt in PROMPTS:
    seen = [
        f'{when - outcome.started:.2f} s' for outcome in outcomes.values()
        for when in _ends(outcome, prompt)
    ]
    parts = sorted(outcomes['in_bundle_fused'].parts[id_of(prompt)])
    text = ' '.join(''.join(part.text for part in parts).split())
    lines.append(
        f"| {prompt} | {' | '.join(seen)} | {len(parts)} | {text[:30]}... |")
  return '\n'.join(lines)


def _ends(outcome, prompt):
  """When the first and the last part of a prompt was seen."""
  seen = [part.seen for part in outcome.parts[id_of(prompt)]]
  return min(seen), max(seen)
