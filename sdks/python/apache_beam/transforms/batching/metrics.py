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

"""Metrics of length-aware batching, and a table of them.

    result = pipeline.run()
    result.wait_until_finish()
    print(metrics_table(result))
"""

import functools
import itertools
from collections.abc import Iterable
from collections.abc import Sequence

from apache_beam.metrics import Metrics
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.runners.runner import PipelineResult

# The namespace of BatchElements' metrics; RunInference's are in that of its
# model handler.
BATCH_ELEMENTS = 'BatchElements'
# Why a batch was emitted: the buffer held as many elements, bytes or seconds of
# the model's time as it may, an element had waited for as long as it may, the
# model was idle, the window or the bundle ended, or its only element alone
# exceeds a limit.
REASONS = (
    'full',
    'memory',
    'model_time',
    'deadline',
    'idle',
    'window_end',
    'bundle_end',
    'limit')
# Of counters of waits, by a power of two: a distribution has no quantiles.
_BELOW = 'wait_msec_below_'


class BatchingMetrics:
  """Counts what left. Sizes are in units of the length function.

  Counters: ``real_size``, ``padded_size``, ``arrival_order_padded_size`` (that
  of batches of as many elements each, in the order in which they came),
  ``predicted_msec`` and ``actual_msec`` (of batches whose cost was known),
  ``batches_REASON``, and ``wait_msec_below_N`` (batches whose oldest element
  waited from N / 2 to N milliseconds, for powers of two).

  Distributions: ``batch_size``, ``msec_per_batch``, ``wait_msec`` (of the
  oldest element of each batch), ``buffered_elements`` and
  ``least_cost_gap_permille`` (how much more than the least-cost cut the
  buffer was cut, for the sake of a minimum or of boundaries).
  """
  def __init__(self, namespace: str = BATCH_ELEMENTS):
    counter = functools.partial(Metrics.counter, namespace)

    def distribution(name):
      return Metrics.distribution(namespace, name)

    self._counter = counter
    self._waits: dict[int, Metrics.DelegatingCounter] = {}
    self._real_size = counter('real_size')
    self._padded_size = counter('padded_size')
    self._arrival_order = counter('arrival_order_padded_size')
    self._predicted = counter('predicted_msec')
    self._actual = counter('actual_msec')
    self._reasons = {why: counter(f'batches_{why}') for why in REASONS}
    self._batch_size = distribution('batch_size')
    self._msec = distribution('msec_per_batch')
    self._wait = distribution('wait_msec')
    self._buffered = distribution('buffered_elements')
    self._gap = distribution('least_cost_gap_permille')
    # What is left of counting in whole milliseconds.
    self._predicted_rest = self._actual_rest = 0.0

  def batch(
      self,
      lengths: Sequence[int],
      arrival_order_padded_size: int,
      reason: str,
      wait_secs: float,
      secs: float) -> None:
    """Counts a batch, of lengths in ascending order, that left."""
    self._real_size.inc(sum(lengths))
    self._padded_size.inc(lengths[-1] * len(lengths))
    self._arrival_order.inc(arrival_order_padded_size)
    self._reasons[reason].inc()
    self._batch_size.update(len(lengths))
    # A clock that was set back gives negative times.
    wait = max(0, int(1000 * wait_secs))
    self._wait.update(wait)
    self._waits_below(1 << wait.bit_length()).inc()
    self._msec.update(max(0, int(1000 * secs)))

  def prediction(self, predicted_secs: float, actual_secs: float) -> None:
    """Counts what a batch was to take and what it took."""
    self._predicted_rest += 1000 * predicted_secs
    self._actual_rest += 1000 * max(0.0, actual_secs)
    self._predicted.inc(int(self._predicted_rest))
    self._actual.inc(int(self._actual_rest))
    self._predicted_rest %= 1
    self._actual_rest %= 1

  def _waits_below(self, msec):
    counter = self._waits.get(msec)
    if counter is None:
      counter = self._waits[msec] = self._counter(f'{_BELOW}{msec}')
    return counter

  def held(self, elements: int) -> None:
    """Counts how many elements were held when a batch or all of them left."""
    self._buffered.update(elements)

  def cut(self, elements: int, gap: float) -> None:
    """Counts a cut of a buffer and by which part it costs more than needed."""
    self.held(elements)
    self._gap.update(round(1000 * gap))


def metrics_table(result: PipelineResult) -> str:
  """The metrics of each step that batched by length, as a Markdown table.

  Args:
    result: of a pipeline that ran; its runner must be able to query metrics.

  Returns:
    One column for each step; of the numbers, those over all its batches.
  """
  found = result.metrics().query(MetricsFilter())
  steps: dict[str, dict[str, int]] = {}
  for metric in found['counters']:
    _step(steps, metric)[metric.key.metric.name] = metric.result
  for metric in found['distributions']:
    values, name = _step(steps, metric), metric.key.metric.name
    for part in ('sum', 'count', 'min', 'max'):
      values[f'{name}.{part}'] = getattr(metric.result, part)
  columns = {
      step: _column(values)
      for step, values in steps.items() if values.get('padded_size')
  }
  if not columns:
    return 'No step batched by length.'
  names = next(iter(columns.values())).keys()
  rows = [['', *columns], ['---'] * (1 + len(columns))]
  rows += [[name, *(column[name] for column in columns.values())]
           for name in names]
  return '\n'.join(_row(row) for row in rows)


def _step(steps, metric):
  return steps.setdefault(metric.key.step, {})


def _row(cells: Iterable[str]) -> str:
  return '| ' + ' | '.join(cells) + ' |'


def _column(values: dict[str, int]) -> dict[str, str]:
  padded, arrival = values['padded_size'], values['arrival_order_padded_size']
  real = max(1, values['real_size'])
  left = {reason: values.get(f'batches_{reason}', 0) for reason in REASONS}
  predicted = values.get('predicted_msec', 0)
  return {
      'elements': f"{values['batch_size.sum']:,}",
      'batches': f"{values['batch_size.count']:,}",
      'batch size, mean': _mean(values, 'batch_size'),
      'real size': f'{real:,}',
      'padding ratio': f'{padded / real:.3f}',
      'padding ratio in arrival order': f'{arrival / real:.3f}',
      'padded size saved': f'{1 - padded / max(1, arrival):.1%}',
      'left because of': ', '.join(
          f"{reason.replace('_', ' ')} {count:,}"
          for reason, count in left.items() if count),
      'wait of the oldest, mean (ms)': _mean(values, 'wait_msec'),
      'wait of the oldest, p50, p95 (ms)': (
          f'below {_wait_quantile(values, 0.5):,}, '
          f'below {_wait_quantile(values, 0.95):,}'),
      'wait of the oldest, longest (ms)': f"{values['wait_msec.max']:,}",
      'time of a batch, mean (ms)': _mean(values, 'msec_per_batch'),
      'predicted to actual time': (
          f"{predicted / max(1, values['actual_msec']):.2f}"
          if predicted else 'not known'),
      'elements held, most': f"{values['buffered_elements.max']:,}",
      'above the least-cost cut, mean': (
          f"{_ratio(values, 'least_cost_gap_permille') / 1000:.1%}"),
  }


def _wait_quantile(values, share):
  """A power of two above the quantile, and at most twice of it."""
  waits = sorted((int(name.removeprefix(_BELOW)), count)
                 for name, count in values.items() if name.startswith(_BELOW))
  least = share * sum(count for _, count in waits)
  below = itertools.accumulate(count for _, count in waits)
  reached = (edge for (edge, _), n in zip(waits, below) if n >= least)
  return next(reached, 0)


def _ratio(values, name):
  return values.get(f'{name}.sum', 0) / max(1, values.get(f'{name}.count', 0))


def _mean(values, name):
  return f'{_ratio(values, name):,.1f}'
