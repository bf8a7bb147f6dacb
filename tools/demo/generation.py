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

from collections.abc import Callable

from apache_beam.ml.inference.huggingface_generation import HuggingFaceGenerationModelHandler
from apache_beam.testing.benchmarks import iterative_inference_benchmark as benchmark
from apache_beam.testing.benchmarks.iterative_inference_recording import id_of
from tools.demo.tables import aligned
from tools.layout import Layout
from tools.smollm import NAME

PROMPTS = (
    'Why is the sky blue?',
    'Name three rivers.',
    'Tell me about a lighthouse.',
    'How do I boil an egg?',
)
_TOKENS = 40
# The names of the benchmark's ways, and those of the demo.
WAYS = {'one_shot': 'one-shot', 'in_bundle_fused': 'iterative'}


def run(
    layout: Layout,
    tokens: int = _TOKENS,
    on_way: Callable[[str], Callable[[int], object]] | None = None
) -> dict[str, benchmark.Outcome]:
  """Generates for the prompts both ways, with a model that is loaded.

  Args:
    layout: of this repository.
    tokens: for each prompt.
    on_way: called when a way starts; what it returns is called with the number
      of texts when they are done.
  """
  handler = HuggingFaceGenerationModelHandler(
      str(layout.build / 'models' / NAME), chat=True)
  engine = benchmark.Engine(
      handler, {'max_new_tokens': tokens}, {'max_new_tokens': 2})
  outcomes = {}
  for way, name in WAYS.items():
    on_texts = on_way(name) if on_way else None
    outcomes[name] = benchmark.run_way(
        benchmark.WAYS[way], engine, PROMPTS, ['--runner=FnApiRunner'])
    if on_texts:
      on_texts(len(PROMPTS))
  return outcomes


def seen(outcome: benchmark.Outcome, prompt: str) -> tuple[float, float]:
  """When the first and the last part of a prompt was seen, in seconds."""
  times = [part.seen for part in outcome.parts[id_of(prompt)]]
  return min(times) - outcome.started, max(times) - outcome.started


def text(outcome: benchmark.Outcome, prompt: str) -> str:
  return ''.join(part.text for part in sorted(outcome.parts[id_of(prompt)]))


def table(outcomes: dict[str, benchmark.Outcome]) -> str:
  """A line for each prompt; seconds from when the first was submitted."""
  head = ['prompt']
  for name in outcomes:
    head += [f'first token, {name}', 'end']
  rows = [[*head, 'chunks']]
  for prompt in PROMPTS:
    seconds = [
        f'{when:.2f} s' for outcome in outcomes.values()
        for when in seen(outcome, prompt)
    ]
    chunks = len(outcomes['iterative'].parts[id_of(prompt)])
    rows.append([prompt, *seconds, str(chunks)])
  return aligned(rows)
