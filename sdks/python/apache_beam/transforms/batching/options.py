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
  """Options of batching by length. Needs ``--experiments=smart_bucketing``.

  They add to the parameters of ``BatchElements`` and ``ModelHandler``::

    RunInference(
        handler, batching_options=BatchingOptions(max_padded_size=8192))

  Args:
    max_padded_size: the maximum padded size of a batch, which is its longest
      length times its number of elements, in units of ``length_fn``. It bounds
      the memory of a model call; a bound on the sum of the lengths does not.
      None: no bound.
    oversized: what happens to an element that exceeds a limit by itself.
      ``'alone'``: it becomes a batch of one and is counted in a metric.
      ``'refuse'``: it is an error.
    max_buffered_elements: the maximum number of elements that are buffered to
      find neighbours of similar length, and so of a batch. A larger buffer
      gives less padding and takes more memory. Counted in a bundle, or with
      max_batch_duration_secs in the state of a key and window.
    max_buffered_bytes: the maximum size of the buffered elements in bytes, as
      ``approximate_bytes`` estimates it.
    max_buffered_secs: in a bundle, the maximum time in seconds that the model
      needs for the buffered elements, by the learned cost, or for eight batches
      if these take longer. A larger value gives less padding, and the oldest
      element waits up to about twice as long. None: no bound. Has no effect
      with ``cost``.
    cost: the cost of a batch, in any unit. None: it is learned from the time
      that batches take.
    optimize_for: what max_batch_duration_secs is for. ``'latency'``: a batch is
      flushed as soon as the model is idle, and the duration is an upper bound.
      ``'cost'``: batches are as full as the duration allows, which takes the
      least compute.
    shards: with max_batch_duration_secs, the number of keys among which
      elements are distributed. The batches of a key run one after another. With
      fewer keys neighbours are more similar; with more keys more batches run
      at the same time. None: one key for each worker process.
    metrics_namespace: the namespace of the metrics of a ``BatchElements``.
      RunInference uses that of its model handler.

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
