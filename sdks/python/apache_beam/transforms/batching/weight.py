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

"""Batches of bounded weight, the sum of what each element weighs."""

import collections
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

from apache_beam.transforms.core import DoFn
from apache_beam.utils import windowed_value

# As the window-aware batches without a weight.
_MAX_LIVE_WINDOWS = 10


class _Batch:
  def __init__(self):
    self.elements: list[Any] = []
    self.weight = 0


class WeightLimitedBatchingDoFn(DoFn):
  """Batches the elements of a bundle by number and by weight.

  An element that alone weighs more than the limit goes alone. Windows and
  timestamps are those of ``BatchElements``.

  Args:
    batch_size_estimator: chooses each batch's number of elements.
    weight_fn: the weight of an element.
    max_weight: the largest sum of weights in a batch.
  """
  def __init__(
      self,
      batch_size_estimator,
      weight_fn: Callable[[Any], int],
      max_weight: int):
    self._batch_size_estimator = batch_size_estimator
    self._weight_fn = weight_fn
    self._max_weight = max_weight

  def start_bundle(self):
    self._batches = collections.defaultdict(_Batch)
    self._target_size = self._batch_size_estimator.next_batch_size()

  def process(self, element, window=DoFn.WindowParam):
    weight = self._weight_fn(element)
    batch = self._batches[window]
    if batch.elements and (len(batch.elements) >= self._target_size or
                           batch.weight + weight > self._max_weight):
      yield from self._emit(window)
      batch = self._batches[window]
    batch.elements.append(element)
    batch.weight += weight
    if len(self._batches) > _MAX_LIVE_WINDOWS:
      yield from self._emit(
          max(self._batches, key=lambda w: self._batches[w].weight))

  def finish_bundle(self):
    for window in list(self._batches):
      yield from self._emit(window)

  def _emit(self, window):
    elements = self._batches.pop(window).elements
    with self._batch_size_estimator.record_time(len(elements)):
      yield windowed_value.WindowedValue(
          elements, window.max_timestamp(), (window, ))
    self._target_size = self._batch_size_estimator.next_batch_size()


class SplitByWeightDoFn(DoFn):
  """Cuts batches that weigh too much, in order, into ones that do not."""
  def __init__(self, weight_fn: Callable[[Any], int], max_weight: int):
    self._weight_fn = weight_fn
    self._max_weight = max_weight

  def process(self, batch: list[Any]) -> Iterable[list[Any]]:
    part: list[Any] = []
    total = 0
    for element in batch:
      weight = self._weight_fn(element)
      if part and total + weight > self._max_weight:
        yield part
        part, total = [], 0
      part.append(element)
      total += weight
    yield part
