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

"""Figures as a table, as JSON and as a plot."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apache_beam.transforms.batching.advisor.policies import Figures
from apache_beam.transforms.batching.advisor.reading import InputError
from apache_beam.transforms.batching.figures import as_markdown
from apache_beam.transforms.batching.report import write
from apache_beam.transforms.batching.report.charts import Point
from apache_beam.transforms.batching.report.charts import Scatter

_COLUMNS = {
    'padding_ratio': ('padding ratio', '.3f'),
    'cost_ratio': ('cost ratio', '.4f'),
    'batches': ('batches', ',d'),
    'mean_batch_size': ('mean size', '.1f'),
    'wait_p50': ('wait p50', '.2f'),
    'wait_p95': ('wait p95', '.2f'),
    'wait_max': ('wait max (s)', '.2f'),
    'latency_p50': ('latency p50', '.3f'),
    'latency_p95': ('latency p95 (s)', '.3f'),
}


def as_json(elements: int, policies: dict[str, Figures]) -> str:
  return json.dumps({
      'elements': elements,
      'policies': {
          name: dataclasses.asdict(figures)
          for name, figures in policies.items()
      }
  },
                    indent=2)


def as_table(policies: dict[str, Figures]) -> str:
  rows = [['policy', *(title for title, _ in _COLUMNS.values())]]
  for name, figures in policies.items():
    rows.append([name, *cells(dataclasses.asdict(figures), _COLUMNS)])
  return as_markdown(rows)


def cells(figures: Mapping[str, Any],
          columns: Mapping[str, tuple[str, str]]) -> list[str]:
  """Figures as they are shown; - for what is None.

  Args:
    figures: by their keys.
    columns: the title and the format of each key that is shown.
  """
  return [
      '-' if figures[key] is None else format(figures[key], how)
      for key, (_, how) in columns.items()
  ]


def saved(policies: dict[str, Figures]) -> str:
  """In words, what batching by length saves against each of the others."""
  cheapest = 'smart_cost' if 'smart_cost' in policies else 'smart'
  ours = policies[cheapest].cost_ratio
  parts = [
      _saved(1 - ours / figures.cost_ratio, name)
      for name, figures in policies.items()
      if name not in ('smart', 'smart_cost', 'offline_bound')
  ]
  line = f'{cheapest} {", ".join(parts)}.'
  if cheapest == 'smart_cost':
    line += (
        f" smart has a median latency of {policies['smart'].latency_p50:.3f} s, "
        f"smart_cost of {policies['smart_cost'].latency_p50:.3f} s, "
        f"beam_default of {policies['beam_default'].latency_p50:.3f} s.")
  return line


def check_plot(path: Path) -> None:
  """Checks where a plot is to be written, before anything is computed.

  Args:
    path: ends in .html, a page with the figures of each policy and a picture
      beside it where matplotlib is installed, or in .png, that picture alone.

  Raises:
    InputError: if it ends otherwise, if the folder is missing, or for .png
      without matplotlib.
  """
  try:
    write.check_path(path, '--plot')
  except (ImportError, ValueError) as e:
    raise InputError(str(e)) from e


def plot(path: Path, policies: dict[str, Figures], title: str) -> None:
  """Draws mean cost against the median latency.

  Args:
    path: as ``check_plot`` takes it.
    policies: by name; those without a latency are lines.
    title: says what was compared.
  """
  texts = {
      name: dict(
          zip((title for title, _ in _COLUMNS.values()),
              cells(dataclasses.asdict(figures), _COLUMNS)))
      for name, figures in policies.items()
  }
  points = [
      Point(
          name,
          figures.latency_p50,
          figures.cost_ratio,
          ', '.join(
              f'{what} {text}' for what, text in texts[name].items()
              if text != '-'),
          is_reference=not name.startswith('smart'))
      for name, figures in policies.items()
  ]
  chart = Scatter(
      'Cost against latency',
      'median latency (s), of the model of a call',
      'cost ratio (cost in tokens / real tokens)',
      points,
      'Lower costs less, further left is faster. Paler: without the flag.')
  write.write(path, 'Batching advisor', title, [chart], texts)


def _saved(part, name):
  if part < 0:
    return f'adds {-part:.0%} to the cost of {name}'
  return f'saves {part:.0%} of the cost of {name}'
