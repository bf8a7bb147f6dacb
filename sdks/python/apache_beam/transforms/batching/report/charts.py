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

"""What the charts of a report show, apart from how they are drawn."""

import dataclasses
import math
from collections.abc import Sequence


class _Labelled:
  label: str
  value: str

  @property
  def tooltip(self) -> str:
    return f'{self.label}: {self.value}'


@dataclasses.dataclass(frozen=True)
class Bar(_Labelled):
  """A bar, or a range with its mean.

  Args:
    label: says whose it is.
    end: where it ends, in any unit that all bars of a chart share.
    value: what is written beside it.
    start: where it begins.
    mean: a point on it; None for none.
    is_reference: whether others are compared with it; it is drawn paler.
  """
  label: str
  end: float
  value: str
  start: float = 0.0
  mean: float | None = None
  is_reference: bool = False


@dataclasses.dataclass(frozen=True)
class BarChart:
  """Bars from 0; note says how to read them."""
  title: str
  bars: Sequence[Bar]
  note: str = ''

  @property
  def end(self) -> float:
    return max(bar.end for bar in self.bars) or 1.0


@dataclasses.dataclass(frozen=True)
class Point(_Labelled):
  """A labelled point; one without an x is a line across."""
  label: str
  x: float | None
  y: float
  value: str
  is_reference: bool = False


@dataclasses.dataclass(frozen=True)
class Scatter:
  """Points by two figures; x is logarithmic where all of them are above 0."""
  title: str
  x_title: str
  y_title: str
  points: Sequence[Point]
  note: str = ''

  @property
  def is_log(self) -> bool:
    return all(point.x is None or point.x > 0 for point in self.points)

  @property
  def xs(self) -> list[float]:
    return [point.x for point in self.points if point.x is not None]

  @property
  def ys(self) -> list[float]:
    return [point.y for point in self.points]

  def x_share(self, x: float) -> float:
    """How far right x is, from 0 to 1 within the points."""
    to = math.log if self.is_log else float
    return _share(to(x), [*map(to, self.xs)])

  def y_share(self, y: float) -> float:
    """How far up y is, from 0 to 1 within the points."""
    return _share(y, self.ys)


def _share(value, values):
  low, high = min(values), max(values)
  return (value - low) / (high - low) if high > low else 0.5


def ticks(values: Sequence[float], is_log: bool = False) -> list[float]:
  """Round numbers within the range of values, six at most."""
  low, high = min(values), max(values)
  if is_log:
    exponents = range(
        math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, )):
      found = [
          digit * 10.0**exponent for exponent in exponents for digit in digits
          if low <= digit * 10.0**exponent <= high
      ]
      if len(found) <= 6:
        break
    return found[::math.ceil(len(found) / 6) or 1]
  if low == high:
    return [low]
  size = 10.0**math.floor(math.log10((high - low) / 5))
  step = next(size * n for n in (1, 2, 5, 10) if (high - low) / (size * n) <= 5)
  first = math.ceil(low / step)
  return [n * step for n in range(first, math.floor(high / step) + 1)]


def spread(positions: Sequence[float], gap: float, end: float) -> list[float]:
  """Moves positions apart by the least squares, so that labels stay readable.

  Args:
    positions: from 0 to end, in any order.
    gap: the least distance; smaller where there is no space.
    end: of the space.

  Returns:
    The positions in the same order.
  """
  gap = min(gap, end / max(1, len(positions) - 1))
  order = sorted(range(len(positions)), key=lambda i: positions[i])
  # Less what those before need, positions must ascend: groups of those that do
  # not share their mean.
  groups: list[list[float]] = []
  for rank, i in enumerate(order):
    groups.append([positions[i] - rank * gap])
    while len(groups) > 1 and _mean(groups[-2]) > _mean(groups[-1]):
      groups[-2:] = [groups[-2] + groups[-1]]
  last = end - (len(positions) - 1) * gap
  bases = [min(max(_mean(group), 0.0), last) for group in groups for _ in group]
  moved = [0.0] * len(positions)
  for rank, (i, base) in enumerate(zip(order, bases)):
    moved[i] = base + rank * gap
  return moved


def _mean(values):
  return sum(values) / len(values)
