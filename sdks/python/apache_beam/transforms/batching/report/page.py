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

"""Charts as one HTML page that needs nothing else: no script, no network."""

from collections.abc import Mapping
from collections.abc import Sequence
from html import escape

from apache_beam.transforms.batching.report.charts import Bar
from apache_beam.transforms.batching.report.charts import BarChart
from apache_beam.transforms.batching.report.charts import Point
from apache_beam.transforms.batching.report.charts import Scatter
from apache_beam.transforms.batching.report.charts import spread
from apache_beam.transforms.batching.report.charts import ticks

# Text has its size at every width, since only the places in the drawings are
# relative.
_STYLE = '''
:root { color-scheme: light dark; --back: #f6f7f9; --card: #fff;
  --text: #1c2126; --muted: #57606a; --line: #d9dee3; --bar: #0969da;
  --pale: #a9b8c8; --mark: #1c2126; }
@media (prefers-color-scheme: dark) { :root { --back: #0f1317; --card: #181d23;
  --text: #e6e9ec; --muted: #9aa4ae; --line: #2f3740; --bar: #4c9df3;
  --pale: #56626f; --mark: #fff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px 16px; max-width: 1200px;
  background: var(--back); color: var(--text);
  font: 15px/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 24px; margin: 0 0 4px; }
h2 { font-size: 16px; margin: 0 0 4px; }
p { margin: 0 0 12px; color: var(--muted); } section p { font-size: 13px; }
main { display: grid; gap: 16px; align-items: start; margin-top: 20px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); }
section { background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; padding: 16px; }
.bar { display: grid; column-gap: 12px;
  grid-template-columns: minmax(45%, 1fr) auto;
  padding: 5px 0; font-size: 14px; } .bar:hover { background: var(--back); }
.bar b, dd { font-weight: 600; text-align: right;
  font-variant-numeric: tabular-nums; }
dd.text { font-weight: 400; text-align: left; }
.bar svg { grid-column: 1 / 3; width: 100%; height: 12px; }
svg { display: block; overflow: visible; } svg text { fill: var(--text);
  font-size: 13px; paint-order: stroke; stroke: var(--card);
  stroke-width: 5px; }
svg .muted { fill: var(--muted); }
.track, .grid { stroke: var(--line); } .track { fill: none; }
.fill, .point { fill: var(--bar); } .pale { fill: var(--pale); }
.mark { fill: var(--mark); stroke: var(--card); }
.lead { stroke: var(--muted); } .across { stroke: var(--pale); stroke-width: 2;
  stroke-dasharray: 6 4; }
dl { display: grid; gap: 3px 12px; margin: 0;
  grid-template-columns: minmax(45%, 1fr) auto;
  font-size: 14px; } dt { color: var(--muted); } dd { margin: 0; }
'''
_HEIGHT, _TOP, _BOTTOM = 360, 24, 320
# In letters; what is longer is set as a text, not as a figure.
_LONGEST_FIGURE = 60
# Of the width: labels of points stand beside them.
_LEFT, _RIGHT = 0.12, 0.88
_LABEL_GAP = 18


def page(
    title: str,
    summary: str,
    charts: Sequence[BarChart | Scatter],
    figures: Mapping[str, Mapping[str, str]]) -> str:
  """The whole page.

  Args:
    title: of the page.
    summary: a sentence or two below it.
    charts: in their order.
    figures: for each transform, texts by the name of what they say.
  """
  cards = [
      _card(
          chart.title,
          chart.note,
          _scatter(chart) if isinstance(chart, Scatter) else ''.join(
              _bar(bar, chart.end) for bar in chart.bars)) for chart in charts
  ]
  cards += [
      _card(name, '', f'<dl>{"".join(map(_figure, texts.items()))}</dl>')
      for name, texts in figures.items()
  ]
  return (
      '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
      '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
      f'<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n'
      f'<h1>{escape(title)}</h1>\n<p>{escape(summary)}</p>\n<main>\n'
      f'{"".join(cards)}</main>\n</html>\n')


def _card(title, note, inner) -> str:
  text = f'<p>{escape(note.strip())}</p>' if note.strip() else ''
  return f'<section><h2>{escape(title)}</h2>{text}{inner}</section>\n'


def _figure(item) -> str:
  name, text = map(escape, item)
  kind = ' class="text"' if len(text) > _LONGEST_FIGURE else ''
  return f'<dt>{name}</dt><dd{kind}>{text}</dd>'


def _bar(bar: Bar, end: float) -> str:
  start, width = 100 * bar.start / end, 100 * (bar.end - bar.start) / end
  mark = ''
  if bar.mean is not None:
    at = f'{100 * bar.mean / end:.2f}%'
    mark = f'<circle class="mark" cx="{at}" cy="6" r="5"/>'
  kind = 'pale' if bar.is_reference else 'fill'
  tooltip = escape(bar.tooltip)
  return (
      f'<div class="bar" title="{tooltip}"><span>{escape(bar.label)}</span>'
      f'<b>{escape(bar.value)}</b><svg role="img" aria-label="{tooltip}">'
      f'<title>{tooltip}</title>'
      '<line class="track" x1="0" x2="100%" y1="6" y2="6"/>'
      f'<rect class="{kind}" x="{start:.2f}%" width="{max(width, 0.4):.2f}%" '
      f'height="12" rx="2"/>{mark}</svg></div>')


def _scatter(chart: Scatter) -> str:
  heights = [_y(chart, y) for y in chart.ys]
  labels = spread(heights, _LABEL_GAP, _BOTTOM + 4)
  drawn = [_ticks(chart)]
  # Lines first, so that they cover no point.
  places = sorted(
      zip(chart.points, heights, labels),
      key=lambda place: place[0].x is not None)
  for point, height, label in places:
    drawn.append(
        (_across if point.x is None else _point)(chart, point, height, label))
  title = escape(chart.title)
  return (
      f'<p>{escape(chart.y_title)}</p>'
      f'<svg role="img" aria-label="{title}" width="100%" height="{_HEIGHT}">'
      f'{"".join(drawn)}</svg><p style="text-align: right; margin: 4px 0 0">'
      f'{escape(chart.x_title)}</p>')


def _point(chart: Scatter, point: Point, height: float, label: float) -> str:
  share = _x(chart, point.x)
  side, anchor = (1, 'start') if share < 0.55 else (-1, 'end')
  kind = 'pale' if point.is_reference else 'point'
  shift = label - height
  return (
      f'<svg x="{100 * share:.2f}%" y="{height:.1f}">'
      f'<title>{escape(point.tooltip)}</title>'
      f'<line class="lead" x2="{11 * side}" y2="{shift:.1f}"/>'
      f'<circle class="{kind}" r="6"/>'
      f'<text x="{14 * side}" y="{shift + 4:.1f}" text-anchor="{anchor}">'
      f'{escape(point.label)}</text></svg>')


def _across(unused_chart, point: Point, height: float, label: float) -> str:
  return (
      f'<g><title>{escape(point.tooltip)}</title><line class="across" x1="0" '
      f'x2="100%" y1="{height:.1f}" y2="{height:.1f}"/><text class="muted" '
      f'x="100%" y="{label + 4:.1f}" text-anchor="end">{escape(point.label)}'
      '</text></g>')


def _ticks(chart: Scatter) -> str:
  drawn = []
  for x in ticks(chart.xs, chart.is_log):
    at = f'{100 * _x(chart, x):.2f}%'
    drawn.append(
        f'<line class="grid" x1="{at}" x2="{at}" y1="0" y2="{_HEIGHT - 18}"/>'
        f'<text class="muted" x="{at}" y="{_HEIGHT - 4}" text-anchor="middle">'
        f'{x:g}</text>')
  for y in ticks(chart.ys):
    at = f'{_y(chart, y):.1f}'
    drawn.append(
        f'<line class="grid" x1="0" x2="100%" y1="{at}" y2="{at}"/>'
        f'<text class="muted" x="0" y="{at}" dy="-3">{y:g}</text>')
  return ''.join(drawn)


def _x(chart: Scatter, x: float) -> float:
  return _LEFT + chart.x_share(x) * (_RIGHT - _LEFT)


def _y(chart: Scatter, y: float) -> float:
  return _TOP + (1 - chart.y_share(y)) * (_BOTTOM - _TOP)
