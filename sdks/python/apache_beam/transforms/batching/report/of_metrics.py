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

"""The charts that the metrics of a pipeline allow."""

from collections.abc import Iterator
from collections.abc import Mapping

from apache_beam.transforms.batching.figures import BUFFERED_NOTE
from apache_beam.transforms.batching.figures import REASONS
from apache_beam.transforms.batching.figures import duration
from apache_beam.transforms.batching.figures import flush_reasons
from apache_beam.transforms.batching.figures import is_within_bundles
from apache_beam.transforms.batching.figures import mean
from apache_beam.transforms.batching.figures import waits_below
from apache_beam.transforms.batching.report.charts import Bar
from apache_beam.transforms.batching.report.charts import BarChart

Values = Mapping[str, int]
_TIMES = {
    'Time to the first token': {
        'ttft_msec': 'from submission',
        'ttft_from_arrival_msec': 'from arrival',
    },
    'Time between chunks of a text': {
        'inter_chunk_msec': 'chunks', 'inter_token_msec': 'per token'
    },
}
_RANGE_NOTE = 'From the least to the most; the mark is the mean.'


def charts_of(transforms: Mapping[str, Values]) -> list[BarChart]:
  """The charts that the metrics of transforms, or of ways, allow.

  Args:
    transforms: by name; values as ``metrics.values_by_transform`` has them.
      What is absent is left out.
  """
  batched = {
      name: values
      for name, values in transforms.items() if values.get('padded_size')
  }
  charts = [
      BarChart(
          'Padding ratio', [*_padding(batched)],
          'Padded size over real size; 1 is no padding. Paler: the same batch '
          'sizes in the order in which elements arrived.'),
      BarChart(
          'Batch size',
          [
              _range(name, values, 'batch_size', '{:,.0f}'.format)
              for name, values in batched.items()
          ],
          'Elements. ' + _RANGE_NOTE),
      BarChart(
          'Mean length of an element', [*_lengths(batched)],
          'In units of the length function. The bar ends at the padded length, '
          'the mark is the real one.'),
      BarChart('Why batches were flushed', [*_reasons(batched)]),
      BarChart(
          'Time of a batch',
          [
              _range(name, values, 'msec_per_batch', duration)
              for name, values in batched.items()
              if 'msec_per_batch.count' in values
          ],
          _RANGE_NOTE),
      BarChart(
          'Predicted and actual time', [*_prediction(batched)],
          'Of all batches whose time was predicted. Paler: what the cost model '
          'expected.'),
  ]
  charts += [
      BarChart(
          f'Batches by time in the buffer: {name}', [*_waits(values)],
          'Of the oldest element of each batch. ' +
          (BUFFERED_NOTE if is_within_bundles(values) else ''))
      for name, values in batched.items()
  ]
  charts += [
      BarChart(
          title,
          [
              _range(f'{name}, {what}', values, metric, duration)
              for name, values in transforms.items()
              for metric, what in names.items()
              if values.get(f'{metric}.count')
          ],
          _RANGE_NOTE) for title, names in _TIMES.items()
  ]
  return [chart for chart in charts if chart.bars]


def _padding(batched) -> Iterator[Bar]:
  for name, values in batched.items():
    real = max(1, values['real_size'])
    ratio = values['padded_size'] / real
    yield Bar(name, ratio, f'{ratio:.2f}')
    if arrival := values.get('arrival_order_padded_size'):
      yield Bar(
          f'{name}, arrival order',
          arrival / real,
          f'{arrival / real:.2f}',
          is_reference=True)


def _lengths(batched) -> Iterator[Bar]:
  for name, values in batched.items():
    count = max(1, values['batch_size.sum'])
    real, padded = values['real_size'] / count, values['padded_size'] / count
    yield Bar(name, padded, f'{real:,.1f}, padded to {padded:,.1f}', mean=real)


def _reasons(batched) -> Iterator[Bar]:
  for name, values in batched.items():
    counts = flush_reasons(values)
    for reason, count in counts.items():
      share = count / sum(counts.values())
      yield Bar(f'{name}: {REASONS[reason]}', share, f'{count:,} ({share:.0%})')


def _prediction(batched) -> Iterator[Bar]:
  for name, values in batched.items():
    if predicted := values.get('predicted_msec'):
      actual = values.get('actual_msec', 0)
      yield Bar(name, actual, duration(actual))
      yield Bar(
          f'{name}, predicted',
          predicted,
          duration(predicted),
          is_reference=True)


def _waits(values) -> Iterator[Bar]:
  waits = waits_below(values)
  if waits:
    edge = min(waits)
    while edge <= max(waits):
      count = waits.get(edge, 0)
      label = (
          f'{duration(edge / 2)} to {duration(edge)}'
          if edge > 1 else 'below 1 ms')
      yield Bar(label, count, f'{count:,}')
      edge *= 2


def _range(label, values, name, text) -> Bar:
  low, high = values[f'{name}.min'], values[f'{name}.max']
  middle = mean(values, name)
  return Bar(
      label,
      high,
      f'{text(low)} to {text(high)}, mean {text(middle)}',
      start=low,
      mean=middle)
