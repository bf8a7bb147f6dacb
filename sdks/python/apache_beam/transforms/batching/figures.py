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

"""Figures of length-aware batching, from the values of its metrics."""

import itertools
from collections.abc import Mapping
from collections.abc import Sequence

# Why a batch was flushed.
REASONS = {
    'full': 'the buffer held as many elements as it may',
    'memory': 'the buffer held as many bytes as it may',
    'model_time': 'the buffer held as many seconds of the model as it may',
    'deadline': 'an element had waited for as long as it may',
    'idle': 'the model was idle',
    'window_end': 'the window ended',
    'bundle_end': 'the bundle ended',
    'limit': 'its only element alone exceeds a limit',
}
# Of counters of waits, by a power of two: a distribution has no quantiles.
BELOW = 'wait_msec_below_'
BUFFERED_NOTE = (
    'Within a bundle, elements are buffered while the model runs on others of '
    'that bundle. No time is lost.')


def batching_figures(values: Mapping[str, int]) -> dict[str, str]:
  """What a step that batched by length counted, by the name of the figure.

  Args:
    values: of counters by their names; of distributions by ``NAME.sum``,
      ``NAME.count``, ``NAME.min`` and ``NAME.max``. What is absent is left out.
  """
  padded, real = values['padded_size'], max(1, values['real_size'])
  figures = {
      'elements': f"{values['batch_size.sum']:,}",
      'batches': f"{values['batch_size.count']:,}",
      'batch size, mean': f"{mean(values, 'batch_size'):,.1f}",
      'real size': f'{real:,}',
      'padding ratio': f'{padded / real:.3f}',
  }
  if arrival := values.get('arrival_order_padded_size'):
    figures['padding ratio in arrival order'] = f'{arrival / real:.3f}'
    figures['padded size saved'] = f'{1 - padded / arrival:.1%}'
  if reasons := flush_reasons(values):
    figures['flushed because of'] = ', '.join(
        f"{reason.replace('_', ' ')} {count:,}"
        for reason, count in reasons.items())
  if 'wait_msec.count' in values:
    p50, p95 = (duration(wait_quantile(values, share)) for share in (0.5, 0.95))
    figures['oldest buffered for, mean'] = duration(mean(values, 'wait_msec'))
    figures['oldest buffered for, p50, p95'] = f'below {p50}, {p95}'
    figures['oldest buffered for, most'] = duration(values['wait_msec.max'])
  if 'msec_per_batch.count' in values:
    time = duration(mean(values, 'msec_per_batch'))
    figures['time of a batch, mean'] = time
  if 'buffered_elements.max' in values:
    predicted = values.get('predicted_msec', 0)
    figures['predicted to actual time'] = (
        f"{predicted / max(1, values['actual_msec']):.2f}"
        if predicted else 'not known')
    figures['elements buffered, most'] = f"{values['buffered_elements.max']:,}"
    gap = mean(values, 'least_cost_gap_permille') / 1000
    figures['above the least-cost cut, mean'] = f'{gap:.1%}'
  return figures


def flush_reasons(values: Mapping[str, int]) -> dict[str, int]:
  """The number of batches that were flushed for each reason that occurred."""
  counts = {reason: values.get(f'batches_{reason}', 0) for reason in REASONS}
  return {reason: count for reason, count in counts.items() if count}


def is_within_bundles(values: Mapping[str, int]) -> bool:
  """Whether nothing but the model and the bundle was waited for."""
  return 'bundle_end' in flush_reasons(values)


def waits_below(values: Mapping[str, int]) -> dict[int, int]:
  """The number of batches by an upper edge of their wait, in ms, ascending."""
  return dict(
      sorted((int(name.removeprefix(BELOW)), count)
             for name, count in values.items() if name.startswith(BELOW)))


def wait_quantile(values: Mapping[str, int], share: float) -> int:
  """A power of two, in ms, above the quantile, and at most twice of it."""
  waits = waits_below(values)
  least = share * sum(waits.values())
  reached = zip(waits, itertools.accumulate(waits.values()))
  return next((edge for edge, n in reached if n >= least), 0)


def mean(values: Mapping[str, int], name: str) -> float:
  """Of a distribution; 0 where it has no values."""
  return values.get(f'{name}.sum', 0) / max(1, values.get(f'{name}.count', 0))


def duration(msec: float) -> str:
  """A time in the unit in which it is read best."""
  if msec < 1000:
    return f'{msec:.0f} ms'
  if msec < 120_000:
    return f'{msec / 1000:.1f} s'
  return f'{msec / 60_000:.1f} min'


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
  """A table of rows of cells, the first of them its head, with even columns."""
  rows = even_columns(rows)
  lines = [f"| {' | '.join(row)} |" for row in rows]
  lines.insert(
      1, '|' + '|'.join('-' * (len(cell) + 2) for cell in rows[0]) + '|')
  return '\n'.join(lines)


def even_columns(rows: Sequence[Sequence[str]]) -> list[list[str]]:
  """Cells that are as wide as their column: the first on its left side, others
  on the right."""
  widths = [max(map(len, column)) for column in zip(*rows)]
  return [[
      cell.rjust(width) if i else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(row, widths))
  ] for row in rows]
