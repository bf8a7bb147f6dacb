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

"""What the benchmark of iterative inference says of what consumers saw."""

# pytype: skip-file

import os
import statistics
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import numpy as np

from apache_beam.testing.benchmarks.iterative_inference_recording import Part
from apache_beam.testing.benchmarks.iterative_inference_recording import id_of

__all__ = ['Outcome', 'against', 'combine', 'compare_texts', 'counts', 'times']


class Outcome(NamedTuple):
  """What a way did: the parts of each prompt, and the times they count from.

  Attributes:
    parts: by the name of a prompt.
    started: when the first prompt was submitted, since the epoch.
    peak_bytes: the most memory that a worker held until it had seen its output.
    grown_bytes: by how much it grew from the first submission.
  """
  parts: dict[str, list[Part]]
  started: float
  peak_bytes: int
  grown_bytes: int


def times(outcome: Outcome) -> dict[str, float]:
  """In seconds from the first submission."""
  first, last = [], []
  for parts in outcome.parts.values():
    first.append(min(part.seen for part in parts) - outcome.started)
    last.append(max(part.seen for part in parts) - outcome.started)
  return {
      'ttft_p50': float(np.percentile(first, 50)),
      'ttft_p95': float(np.percentile(first, 95)),
      'e2e_p50': float(np.percentile(last, 50)),
      'total': max(last),
  }


def counts(outcome: Outcome, prompts: Sequence[str]) -> dict[str, Any]:
  """Of chunks and tokens, and of those that are lost or duplicated."""
  missing = doubled = 0
  errors = []
  for prompt in prompts:
    parts = outcome.parts.get(id_of(prompt), [])
    indices = {part.index for part in parts}
    last = [part.index for part in parts if part.is_last]
    # Without a last chunk, nobody knows how many more there ought to be.
    expected = set(
        range(max(last) + 1 if last else max(indices, default=0) + 2))
    missing += len(expected - indices)
    doubled += len(parts) - len(indices)
    errors += [part.error for part in parts if part.error]
  every = [part for parts in outcome.parts.values() for part in parts]
  return {
      'chunks': len(every),
      'tokens': sum(part.tokens or 0 for part in every),
      'missing': missing,
      'doubled': doubled,
      'errors': len(errors),
      'first_error': errors[0] if errors else None,
      'worker_peak_bytes': outcome.peak_bytes,
      'worker_grown_bytes': outcome.grown_bytes,
  }


def compare_texts(
    one_shot: Outcome, others: dict[str, Outcome],
    prompts: Sequence[str]) -> dict[str, Any]:
  """The share of the others' texts that equal those of one_shot."""
  compared = equal = 0
  first_difference = None
  for name, outcome in others.items():
    for prompt in prompts:
      one, other = _text(one_shot, prompt), _text(outcome, prompt)
      compared += 1
      equal += one == other
      if one != other and first_difference is None:
        at = len(os.path.commonprefix([one, other]))
        first_difference = {
            'way': name,
            'prompt': prompt,
            'at': at,
            'one_shot': one[at:at + 40],
            'iterative': other[at:at + 40],
        }
  return {
      'texts_equal': equal / compared,
      'first_difference': first_difference,
  }


def _text(outcome, prompt):
  parts = outcome.parts.get(id_of(prompt), [])
  return ''.join(part.text for part in sorted(parts))


def against(figures: dict[str, dict]) -> dict[str, dict]:
  """Seconds that a way adds to bare, and its times over those of others."""
  bare, one_shot = figures.get('bare'), figures.get('one_shot')
  found = {}
  for name, times_of in figures.items():
    row = found[name] = {}
    if bare:
      row['ttft_p50_minus_bare'] = times_of['ttft_p50'] - bare['ttft_p50']
      row['ttft_p95_minus_bare'] = times_of['ttft_p95'] - bare['ttft_p95']
      row['total_over_bare'] = times_of['total'] / bare['total']
    if one_shot:
      row['total_over_one_shot'] = times_of['total'] / one_shot['total']
  return found


def combine(rounds: Sequence[dict[str, Any]], ways: Sequence[str]) -> dict:
  """The medians of several rounds' figures, and the spread of ``against``.

  Args:
    rounds: what ``measure`` returned for each.
    ways: their names.

  Returns:
    The figures of the last round but for: the times and ``against``, which are
    medians; ``spread``, the least and the most of each of ``against``; sums of
    what is lost or duplicated; the mean of ``texts_equal``.
  """
  combined = dict(rounds[-1])
  for way in ways:
    combined[way] = _medians([one[way] for one in rounds])
  compared = {way: [one['against'][way] for one in rounds] for way in ways}
  combined['against'] = {way: _medians(rows) for way, rows in compared.items()}
  combined['spread'] = {
      way: {
          key: [min(row[key] for row in rows), max(row[key] for row in rows)]
          for key in rows[0]
      }
      for way, rows in compared.items()
  }
  for key in ('missing', 'doubled'):
    combined[key] = sum(one[key] for one in rounds)
  if 'texts_equal' in combined:
    combined['texts_equal'] = statistics.mean(
        one['texts_equal'] for one in rounds)
    differences = [one['first_difference'] for one in rounds]
    combined['first_difference'] = next(filter(None, differences), None)
  return combined


def _medians(rows):
  return {key: statistics.median(row[key] for row in rows) for key in rows[0]}
