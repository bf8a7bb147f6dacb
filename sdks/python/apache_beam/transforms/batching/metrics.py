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
import re
from collections.abc import Sequence

from apache_beam.metrics import Metrics
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.runners.runner import PipelineResult
from apache_beam.transforms.batching.figures import BELOW
from apache_beam.transforms.batching.figures import BUFFERED_NOTE
from apache_beam.transforms.batching.figures import REASONS
from apache_beam.transforms.batching.figures import as_markdown
from apache_beam.transforms.batching.figures import batching_figures
from apache_beam.transforms.batching.figures import is_within_bundles

# The namespace of BatchElements' metrics; RunInference's are in that of its
# model handler.
BATCH_ELEMENTS = 'BatchElements'
# Portable runners name a step by the id of its transform: Beam normalizes its
# label, cuts the id to 100 characters and numbers it.
_ID_PREFIX = 'ref_AppliedPTransform_'
_ID = re.compile(rf'{_ID_PREFIX}(.+)_\d+')
_LABEL_LENGTH = 100 - len(_ID_PREFIX)
_INNER_STEPS = re.compile(r'-(BatchElements-ParDo|BeamML_RunInference|ParDo).*')
_NAME_LENGTH = 32


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
      counter = self._waits[msec] = self._counter(f'{BELOW}{msec}')
    return counter

  def held(self, elements: int) -> None:
    """Counts how many elements were held when a batch or all of them left."""
    self._buffered.update(elements)

  def cut(self, elements: int, gap: float) -> None:
    """Counts a cut of a buffer and by which part it costs more than needed."""
    self.held(elements)
    self._gap.update(round(1000 * gap))


def metrics_table(result: PipelineResult) -> str:
  """The metrics of each transform that batched by length, as a Markdown table.

  Args:
    result: of a pipeline that ran; its runner must be able to query metrics.

  Returns:
    One column for each transform; of the numbers, those over all its batches.
  """
  batched = {
      name: values
      for name, values in values_by_transform(result).items()
      if values.get('padded_size')
  }
  if not batched:
    return 'No step batched by length.'
  columns = [batching_figures(values) for values in batched.values()]
  rows = [['', *batched]]
  for name in columns[0]:
    rows.append([name, *(figures.get(name, '-') for figures in columns)])
  table = as_markdown(rows)
  if any(map(is_within_bundles, batched.values())):
    table += f'\n\n{BUFFERED_NOTE}'
  return table


def values_by_transform(result: PipelineResult) -> dict[str, dict[str, int]]:
  """The counters and distributions of each transform, by its short name.

  Args:
    result: of a pipeline that ran; its runner must be able to query metrics.

  Returns:
    Values by the name of the metric; those of distributions by
    ``NAME.sum``, ``NAME.count``, ``NAME.min`` and ``NAME.max``.
  """
  found = result.metrics().query(MetricsFilter())
  # Prism has metrics of collections among them, which are of no step.
  counters, distributions = (
      [metric for metric in found[kind] if metric.key.step is not None]
      for kind in ('counters', 'distributions'))
  steps: dict[str, dict[str, int]] = {}
  for metric in counters:
    _step(steps, metric)[metric.key.metric.name] = metric.result
  for metric in distributions:
    values, name = _step(steps, metric), metric.key.metric.name
    for part in ('sum', 'count', 'min', 'max'):
      values[f'{name}.{part}'] = getattr(metric.result, part)
  transforms: dict[str, dict[str, int]] = {}
  for step in sorted(steps):
    name = short_name(step)
    # The steps of a transform count different things; those that do not are of
    # two whose names were shortened to the same.
    names = itertools.chain([name], (f'{name} {n}' for n in itertools.count(2)))
    free = next(
        name for name in names
        if not transforms.get(name, {}).keys() & steps[step].keys())
    transforms.setdefault(free, {}).update(steps[step])
  return transforms


def short_name(step: str) -> str:
  """The label of the transform that a step is in, the same on every runner."""
  found = _ID.search(step)
  label = found[1] if found else re.sub('[^a-zA-Z0-9-_]+', '-', step)
  name = _INNER_STEPS.sub('', label[:_LABEL_LENGTH]).strip('-')
  return name if len(name) <= _NAME_LENGTH else f'...{name[3 - _NAME_LENGTH:]}'


def _step(steps, metric):
  return steps.setdefault(metric.key.step, {})
