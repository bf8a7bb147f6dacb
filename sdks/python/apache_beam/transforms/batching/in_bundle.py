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

"""Groups the elements of a bundle by length, without state."""

import collections
import logging
from collections.abc import Callable
from operator import itemgetter
from typing import Any

from apache_beam.options.pipeline_options import DebugOptions
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.batching.options import BatchingOptions
from apache_beam.transforms.batching.packing import take_longest
from apache_beam.transforms.batching.validation import one
from apache_beam.transforms.core import DoFn
from apache_beam.utils import windowed_value

__all__ = ['EXPERIMENT', 'LengthBatchingDoFn', 'is_enabled']

_LOGGER = logging.getLogger(__name__)

EXPERIMENT = 'smart_bucketing'


def is_enabled(
    pipeline_options: PipelineOptions,
    batching_options: BatchingOptions | None,
    transform: str) -> bool:
  """Whether the pipeline asked for length-aware batching.

  Raises:
    ValueError: if the transform was given options that would have no effect.
  """
  debug_options = pipeline_options.view_as(DebugOptions)
  enabled = debug_options.lookup_experiment(EXPERIMENT) is True
  if batching_options is not None and not enabled:
    raise ValueError(
        f'{transform}: BatchingOptions need --experiments={EXPERIMENT}. Start '
        'the pipeline with it, or leave the options out.')
  return enabled


def check_options(
    options: BatchingOptions | None,
    length_fn: Callable[[Any], int] | None,
    min_batch_size: int,
    max_batch_duration_secs: float | None) -> None:
  """Refuses options that could not have their effect in BatchElements.

  Raises:
    ValueError: if another parameter is missing or contradicts them.
  """
  if options is None:
    return
  if length_fn is None:
    raise ValueError(
        'BatchElements: options requires length_fn to be set '
        '(batch_length_fn of a ModelHandler).')
  if max_batch_duration_secs is not None:
    raise ValueError(
        'BatchElements: options group within a bundle, but '
        f'max_batch_duration_secs={max_batch_duration_secs!r} batches across '
        'bundles. Leave one of them out.')
  if min_batch_size > options.max_buffered_elements:
    raise ValueError(
        f'BatchElements: min_batch_size={min_batch_size!r} is more than '
        'BatchingOptions(max_buffered_elements='
        f'{options.max_buffered_elements!r}) holds. Raise the latter.')


def default_options(min_batch_size: int) -> BatchingOptions:
  """What holds without options: room for some batches to choose from."""
  held = BatchingOptions().max_buffered_elements
  return BatchingOptions(max_buffered_elements=max(held, 8 * min_batch_size))


class LengthBatchingDoFn(DoFn):
  """Holds elements back, sorts them by length and cuts them into batches.

  A batch holds elements of one window and is emitted in it, at its end, as
  ``BatchElements`` does it. The order of elements is not kept. What is held
  back at the end of the bundle is emitted then, so a retried bundle loses and
  doubles nothing.

  Args:
    batch_size_estimator: chooses each batch's size, from the time that the
      fused consumers took for the ones before.
    element_size_fn: what an element counts towards that size.
    length_fn: the length of an element, a non-negative int.
    options: the limits.
    weight_fn: the weight of an element, with ``max_weight``.
    max_weight: the largest sum of weights in a batch; None for no bound.
  """
  def __init__(
      self,
      batch_size_estimator,
      element_size_fn: Callable[[Any], int],
      length_fn: Callable[[Any], int],
      options: BatchingOptions,
      weight_fn: Callable[[Any], int] = one,
      max_weight: int | None = None):
    self._batch_size_estimator = batch_size_estimator
    self._element_size_fn = element_size_fn
    self._length_fn = length_fn
    self._options = options
    self._weight_fn = weight_fn
    self._max_weight = max_weight

  def start_bundle(self):
    self._buffers = collections.defaultdict(list)
    # The first timing, with the setup in it, is not ignored as elsewhere: the
    # estimator would replay the size of a batch that a limit may have cut.
    self._buffered = 0

  def process(self, element, window=DoFn.WindowParam):
    length = self._length_fn(element)
    size = self._element_size_fn(element)
    self._buffers[window].append((length, size, element))
    self._buffered += 1
    if self._buffered >= self._options.max_buffered_elements:
      return self._make_room()

  def _make_room(self):
    # Half of it, so that many windows are not looked through for each element.
    by_size = sorted(self._buffers, key=lambda w: -len(self._buffers[w]))
    for window in by_size:
      if 2 * self._buffered <= self._options.max_buffered_elements:
        return
      yield from self._flush(window, keep_rest=True)

  def finish_bundle(self):
    for window in list(self._buffers):
      yield from self._flush(window, keep_rest=False)
    _LOGGER.info(
        'BatchElements statistics: %s', self._batch_size_estimator.stats())

  def _flush(self, window, keep_rest):
    """Emits the elements of a window.

    With keep_rest the last ones wait for more, if they are too few for a batch
    and others have left.
    """
    buffer = self._buffers.pop(window)
    self._buffered -= len(buffer)
    buffer.sort(key=itemgetter(0))
    lengths = [length for length, _, _ in buffer]
    sizes = [size for _, size, _ in buffer]
    sums = []
    if self._max_weight is not None:
      weights = [self._weight_fn(element) for _, _, element in buffer]
      sums.append((weights, self._max_weight))
    emitted = False
    while buffer:
      target = self._batch_size_estimator.next_batch_size()
      count = take_longest(
          lengths, [(sizes, target), *sums], self._options.max_padded_size)
      if keep_rest and emitted and count == len(buffer) and sum(sizes) < target:
        self._buffers[window] = buffer
        self._buffered += len(buffer)
        return
      batch = [element for _, _, element in buffer[-count:]]
      with self._batch_size_estimator.record_time(sum(sizes[-count:])):
        yield windowed_value.WindowedValue(
            batch, window.max_timestamp(), (window, ))
      emitted = True
      for column in (buffer, lengths, sizes, *(values for values, _ in sums)):
        del column[-count:]
