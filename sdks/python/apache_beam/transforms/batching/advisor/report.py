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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apache_beam.transforms.batching.advisor.policies import Figures
from apache_beam.transforms.batching.advisor.reading import InputError

_COLUMNS = {
    'padding_ratio': ('padding ratio', '.3f'),
    'cost_ratio': ('cost ratio', '.4f'),
    'batches': ('batches', ',d'),
    'mean_batch_size': ('mean size', '.1f'),
    'wait_p50': ('wait p50', '.2f'),
    'wait_p95': ('p95', '.2f'),
    'wait_max': ('max (s)', '.2f'),
    'latency_p50': ('latency p50', '.3f'),
    'latency_p95': ('p95 (s)', '.3f'),
}
SUFFIXES = ('.png', '.html')


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


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
  """A table of rows of cells, the first of them its head."""
  widths = [max(map(len, column)) for column in zip(*rows)]
  lines = [_line(row, widths) for row in rows]
  lines.insert(1, '|' + '|'.join('-' * (width + 2) for width in widths) + '|')
  return '\n'.join(lines)


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


def plot(path: Path, policies: dict[str, Figures], title: str) -> None:
  """Draws mean cost against the median latency.

  Args:
    path: ends in .png or .html; the latter holds the drawing as SVG.
    policies: by name; those without a latency are lines.
    title: says what was compared.

  Raises:
    InputError: without matplotlib.
  """
  try:
    from matplotlib.figure import Figure
  except ImportError as e:
    raise InputError(
        '--plot needs matplotlib. Install it (pip install matplotlib).') from e
  figure = Figure(figsize=(8, 5), layout='constrained')
  axes = figure.add_subplot()
  for name, figures in policies.items():
    if name == 'offline_bound':
      axes.axhline(figures.cost_ratio, ls='--', c='grey')
      axes.annotate(
          name, (1, figures.cost_ratio),
          xycoords=('axes fraction', 'data'),
          xytext=(-6, -12),
          textcoords='offset points',
          ha='right',
          color='grey')
      continue
    ours = name.startswith('smart')
    (point, ) = axes.plot(
        figures.latency_p50, figures.cost_ratio, 'os'[ours], markersize=9)
    # To either side, since the best boundaries may be close to ours.
    axes.annotate(
        name, (figures.latency_p50, figures.cost_ratio),
        xytext=(-8, 8) if ours else (8, 8),
        textcoords='offset points',
        ha='right' if ours else 'left',
        color=point.get_color(),
        weight='bold' if ours else 'normal')
  if all(f.latency_p50 != 0 for f in policies.values()):
    axes.set_xscale('log')
  # Room for the labels.
  axes.margins(x=0.2, y=0.1)
  axes.set_xlabel('median latency (s), of the model of a call')
  axes.set_ylabel('cost ratio (cost in tokens / real tokens)')
  axes.set_title(title, fontsize='medium')
  axes.grid(alpha=0.3)
  if path.suffix == '.png':
    figure.savefig(path, dpi=150)
    return
  svg = path.with_suffix('.svg')
  figure.savefig(svg)
  drawing = svg.read_text(encoding='utf-8')
  svg.unlink()
  path.write_text(
      '<!doctype html><meta charset="utf-8"><title>Batching advisor</title>'
      f'<pre>{as_table(policies)}</pre>{drawing[drawing.index("<svg"):]}',
      encoding='utf-8')


def _saved(part, name):
  if part < 0:
    return f'adds {-part:.0%} to the cost of {name}'
  return f'saves {part:.0%} of the cost of {name}'


def _line(cells, widths):
  first, *rest = (
      cell.ljust(width) if i == 0 else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(cells, widths)))
  return '| ' + ' | '.join([first, *rest]) + ' |'
