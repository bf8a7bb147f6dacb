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

"""How elements are grouped by length."""

import dataclasses
import numbers
from typing import Literal
from typing import get_args
from typing import get_type_hints

from apache_beam.transforms.batching.policy.least_cost import Cost


@dataclasses.dataclass(frozen=True)
class BatchingOptions:
  """Options of length-aware batching, beside those that batching always has.

  Needs ``--experiments=smart_bucketing``.

  Args:
    max_padded_size: the largest padded size of a batch: its longest length
      times its number of elements, in units of ``length_fn``. Bounds the
      memory of a model call, which the sum of the lengths does not. No bound
      by default.
    oversized: what happens to an element that alone exceeds a limit:
      ``'alone'``, it makes a batch of its own and is counted in a metric, or
      ``'refuse'``, it is an error.
    max_buffered_elements: how many elements of a bundle are held back at most,
      to find neighbours of similar length among them; so no batch holds more.
      More gives less padding and takes more memory. With
      max_batch_duration_secs they are those of a key and a window, in state.
    max_buffered_bytes: how many bytes the elements that are held back take at
      most, by an estimate (``approximate_bytes``).
    max_buffered_secs: how many seconds the model takes, by the cost that was
      learned, for what is held back of a bundle at most, or for eight batches
      where these take longer; None for no bound. More gives less padding, and
      the oldest element waits longer, up to about twice as long. Has no effect
      where the cost is given.
    cost: what a batch costs, where it is not to be learned from the time that
      batches take. In any unit.
    optimize_for: with max_batch_duration_secs, what it is used for.
      ``'latency'``: a batch is flushed as soon as the model is idle, so the
      duration is an upper bound. ``'cost'``: batches are as full as the duration
      allows, for the least compute.
    shards: with max_batch_duration_secs, over how many keys the elements are
      spread that wait. By default each worker process has a key. Fewer keys
      find better neighbours, and more of them work at the same time.
    metrics_namespace: where the metrics are found (``BatchingMetrics``);
      RunInference puts them with those of its model handler.

  Raises:
    TypeError: if a value has the wrong type.
    ValueError: if a value is out of range.
  """
  max_padded_size: int | None = None
  oversized: Literal['alone', 'refuse'] = 'alone'
  # 64 batches of 32.
  max_buffered_elements: int = 2048
  max_buffered_bytes: int = 256 << 20
  max_buffered_secs: float | None = 10.0
  cost: Cost | None = None
  optimize_for: Literal['latency', 'cost'] = 'latency'
  shards: int | None = None
  metrics_namespace: str = 'BatchElements'

  def __post_init__(self):
    for name in ('max_padded_size',
                 'max_buffered_elements',
                 'max_buffered_bytes',
                 'shards'):
      self._check_positive_int(name)
    self._check_secs()
    for name in ('oversized', 'optimize_for'):
      self._check_choice(name)
    if not isinstance(self.metrics_namespace, str):
      raise TypeError(
          f'BatchingOptions(metrics_namespace={self.metrics_namespace!r}): must '
          'be a str.')
    if not isinstance(self.cost, (Cost, type(None))):
      raise TypeError(
          f'BatchingOptions(cost={self.cost!r}): must be a Cost, such as '
          'Cost(fixed=200, per_token=1).')

  def _check_secs(self):
    value = self.max_buffered_secs
    if value is None:
      return
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
      raise TypeError(
          f'BatchingOptions(max_buffered_secs={value!r}): must be a number.')
    if not value > 0:
      raise ValueError(
          f'BatchingOptions(max_buffered_secs={value!r}): must be positive.')

  def _check_choice(self, name):
    value = getattr(self, name)
    allowed = get_args(get_type_hints(type(self))[name])
    if value not in allowed:
      raise ValueError(
          f'BatchingOptions({name}={value!r}): must be '
          f"{' or '.join(map(repr, allowed))}.")

  def _check_positive_int(self, name):
    value = getattr(self, name)
    if value is None and name in ('max_padded_size', 'shards'):
      return
    if not isinstance(value, int) or isinstance(value, bool):
      raise TypeError(f'BatchingOptions({name}={value!r}): must be an int.')
    if value <= 0:
      raise ValueError(f'BatchingOptions({name}={value!r}): must be positive.')
