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

"""The ways side by side, on a page and in a sentence."""

from pathlib import Path

from apache_beam.transforms.batching.figures import batching_figures
from apache_beam.transforms.batching.metrics import values_by_transform
from apache_beam.transforms.batching.report import write as report
from apache_beam.transforms.batching.report.charts import Bar
from apache_beam.transforms.batching.report.charts import BarChart
from apache_beam.transforms.batching.report.of_metrics import Values
from apache_beam.transforms.batching.report.of_metrics import charts_of
from tools.demo import generation
from tools.demo.ways import Outcome

FLAG_ON = 'flag on'


def saved(outcomes: list[Outcome]) -> str:
  """What the flag saved, and how to have it."""
  first, buckets = outcomes[:2]
  on = next(outcome for outcome in outcomes if outcome.name == FLAG_ON)
  most = max(outcome.difference(first) for outcome in outcomes)
  return (
      f'With the flag {len(on.embeddings)} texts took {on.seconds:.1f} s '
      f'instead of {first.seconds:.1f} s in arrival order and '
      f'{buckets.seconds:.1f} s with the length buckets of 2.77. The model '
      f'computed {on.padding_ratio:.2f} tokens for each real one instead of '
      f'{first.padding_ratio:.2f}.\n'
      f'Embeddings differ by at most {most:.0e}.\n\n'
      'In your own pipeline:\n'
      "    PipelineOptions(['--experiments=smart_bucketing'])\n"
      '    HuggingFaceModelHandlerKeyedTensor(..., padding=PaddingOptions())')


def seen_early(generated: dict) -> str:
  """When the first tokens were seen, and how to have it."""
  late, early = (
      max(generation.seen(outcome, prompt)[0] for prompt in generation.PROMPTS)
      for outcome in (generated['one-shot'], generated['iterative']))
  return (
      f'Iteratively each prompt had its first token after {early:.2f} s at the '
      f'latest, instead of {late:.2f} s.\n\n'
      'In your own pipeline:\n'
      "    PipelineOptions(['--experiments=iterative_inference'])\n"
      '    RunInference(handler, iterative=IterativeOptions())')


def write(path: Path, outcomes: list[Outcome], generated: dict) -> None:
  """Writes the page.

  Args:
    path: of the page.
    outcomes: of the ways to embed.
    generated: the outcomes of the ways to generate, by their names.
  """
  values = {outcome.name: values_of(outcome) for outcome in outcomes}
  speed = BarChart(
      'Texts per second',
      [
          Bar(o.name, o.rate, f'{o.rate:.1f}', is_reference=i < 2)
          for i, o in enumerate(outcomes)
      ],
      'MiniLM-L6, without loading it. Paler: without the flag.')
  first_tokens = BarChart(
      'First token and end of each text',
      [
          Bar(
              f'{prompt} {name}',
              end,
              f'{first:.2f} s, end {end:.2f} s',
              start=first,
              is_reference=name == 'one-shot') for prompt in generation.PROMPTS
          for name, outcome in generated.items()
          for first, end in [generation.seen(outcome, prompt)]
      ],
      'SmolLM2, from when the first prompt was submitted. Paler: one-shot, '
      'which shows a text when all are done.')
  figures = {
      name: batching_figures(counted)
      for name, counted in values.items()
  }
  figures['What SmolLM2 wrote, iteratively'] = {
      prompt: generation.text(generated['iterative'], prompt)
      for prompt in generation.PROMPTS
  }
  report.write(
      path,
      'What the flags save',
      f'{len(outcomes[0].embeddings)} texts embedded, and '
      f'{len(generation.PROMPTS)} prompts answered, on this machine.',
      [speed, *charts_of(values), first_tokens],
      figures)


def values_of(outcome: Outcome) -> Values:
  """The metrics of the transform that batched, or what was seen of its calls."""
  for values in values_by_transform(outcome.result).values():
    if values.get('padded_size'):
      return values
  calls = outcome.calls
  return {
      'real_size': sum(call.real for call in calls),
      'padded_size': sum(call.padded for call in calls),
      **_distribution('batch_size', [call.texts for call in calls]),
      **_distribution(
          'msec_per_batch', [round(1000 * call.seconds) for call in calls]),
  }


def _distribution(name, values):
  return {
      f'{name}.sum': sum(values),
      f'{name}.count': len(values),
      f'{name}.min': min(values),
      f'{name}.max': max(values),
  }
