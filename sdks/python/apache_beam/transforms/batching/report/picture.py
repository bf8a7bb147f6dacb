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

"""Charts as a picture, drawn by matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from apache_beam.transforms.batching.report.charts import BarChart
from apache_beam.transforms.batching.report.charts import Scatter
from apache_beam.transforms.batching.report.charts import spread

if TYPE_CHECKING:
  from matplotlib.axes import Axes

_BAR, _PALE, _MARK = '#0969da', '#a9b8c8', '#1c2126'
_WIDTH, _BAR_HEIGHT, _HEAD_HEIGHT, _SCATTER_HEIGHT = 9, 0.42, 0.6, 5


def save(path: Path, title: str, charts: Sequence[BarChart | Scatter]) -> None:
  """Draws charts below each other.

  Args:
    path: of the picture, ending in .png.
    title: above all of them.
    charts: in their order.

  Raises:
    ImportError: without matplotlib.
  """
  from matplotlib.figure import Figure
  heights = [
      _SCATTER_HEIGHT if isinstance(chart, Scatter) else _HEAD_HEIGHT +
      _BAR_HEIGHT * len(chart.bars) for chart in charts
  ]
  figure = Figure(figsize=(_WIDTH, sum(heights) + 0.4), layout='constrained')
  figure.suptitle(_plain(title), x=0.01, ha='left')
  rows = figure.subplots(
      len(charts), squeeze=False, gridspec_kw={'height_ratios': heights})
  for (axes, ), chart in zip(rows, charts):
    axes.set_title(
        _plain(chart.title), loc='left', fontsize='medium', weight='bold')
    (_scatter if isinstance(chart, Scatter) else _bars)(axes, chart)
  figure.savefig(path, dpi=150)


def _bars(axes: 'Axes', chart: BarChart) -> None:
  for i, bar in enumerate(chart.bars):
    axes.barh(
        i,
        max(bar.end - bar.start, chart.end / 250),
        left=bar.start,
        height=0.3,
        color=_PALE if bar.is_reference else _BAR)
    if bar.mean is not None:
      axes.plot(bar.mean, i, 'o', color=_MARK, markersize=5)
    for text, end, side in ((bar.label, 0, 'left'), (bar.value, 1, 'right')):
      axes.text(
          end,
          i - 0.22,
          _plain(text),
          transform=axes.get_yaxis_transform(),
          ha=side,
          va='bottom',
          fontsize='small')
  axes.set_xlim(0, chart.end)
  axes.set_ylim(len(chart.bars) - 0.6, -0.8)
  axes.set_axis_off()


def _scatter(axes: 'Axes', chart: Scatter) -> None:
  if chart.is_log:
    axes.set_xscale('log')
  axes.margins(x=0.25, y=0.1)
  low, height = min(chart.ys), (max(chart.ys) - min(chart.ys)) or 1.0
  labels = spread([y - low for y in chart.ys], height / 16, height)
  for point, label in zip(chart.points, labels):
    if point.x is None:
      axes.axhline(point.y, ls='--', c=_PALE)
      place, to_right, across = (1, point.y), False, True
    else:
      color = _PALE if point.is_reference else _BAR
      axes.plot(point.x, point.y, 'o', c=color, markersize=9)
      place, across = (point.x, point.y), False
      to_right = chart.x_share(point.x) < 0.5
    axes.annotate(
        _plain(point.label),
        place,
        xycoords=('axes fraction', 'data') if across else 'data',
        xytext=(14 if to_right else -14, label + low),
        textcoords=('offset points', 'data'),
        ha='left' if to_right else 'right',
        va='bottom' if across else 'center',
        arrowprops=None if across else {
            'arrowstyle': '-', 'color': _PALE
        })
  axes.set_xlabel(_plain(chart.x_title))
  axes.set_ylabel(_plain(chart.y_title))
  axes.grid(alpha=0.3)


def _plain(text: str) -> str:
  """As it stands: matplotlib takes a pair of dollars for a formula."""
  return text.replace('$', r'\$')
