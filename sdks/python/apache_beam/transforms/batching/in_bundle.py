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
import dataclasses
import time
import uuid
from collections.abc import Callable
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from apache_beam.transforms.batching.cost_model import shared_cost_model
from apache_beam.transforms.batching.least_cost import padded_size
from apache_beam.transforms.batching.lookahead import Limits
from apache_beam.transforms.batching.lookahead import cut_into_runs
from apache_beam.transforms.batching.lookahead import gap
from apache_beam.transforms.batching.memory import approximate_bytes
from apache_beam.transforms.batching.memory_limit import MemoryLimit
from apache_beam.transforms.batching.memory_limit import reported
from apache_beam.transforms.batching.metrics import BatchingMetrics
from apache_beam.transforms.batching.opt_in import default_options
from apache_beam.transforms.batching.options import BatchingOptions
from apache_beam.transforms.batching.validation import one
from apache_beam.transforms.core import DoFn
from apache_beam.utils import windowed_value

__all__ = ['LengthBatchingDoFn']

# By how much a batch may be larger than the largest before it, in elements as in
# BatchElements' estimator and in padded size, as what a larger one costs per token
# is not known: MiniLM-L6 on 2 cores takes 15 % more above 5,000 tokens.
_MAX_GROWTH_FACTOR = 2


@dataclasses.dataclass(slots=True)
class _Held:
  """An element that is held back, with all that the choice of its batch needs.

  ``values`` are those whose sums are limited, in the order of the limits.
  """
  length: int
  values: list[int]
  nbytes: int
  arrived: float
  element: Any


@dataclasses.dataclass(slots=True)
class _Buffer:
  """What is held back of one window.

  ``arrived`` are lengths in the order in which they came, to tell what batching
  in that order would have cost.
  """
  held: list[_Held] = dataclasses.field(default_factory=list)
  arrived: collections.deque[int] = dataclasses.field(
      default_factory=collections.deque)


@dataclasses.dataclass(frozen=True, slots=True)
class _Batch:
  """Held elements of one window, ascending by length.

  The cost is in seconds if it is ``timed``.
  """
  window: Any
  held: list[_Held]
  lengths: list[int]
  cost: float
  waste: float
  timed: bool


class LengthBatchingDoFn(DoFn):
  """Holds elements back, sorts them by length and cuts them at least cost.

  A batch holds elements of one window and is emitted in it, at its end, as
  ``BatchElements`` does it. The order of elements is not kept. What is held
  back at the end of the bundle is emitted then, so a retried bundle loses and
  doubles nothing.

  What a batch costs is learned from the time that the fused consumers take for
  it; a batch has at most twice the elements and, without a minimum and
  boundaries, twice the padded size of the largest before it. All threads of a
  process learn together, over bundles and windows.

  Args:
    length_fn: the length of an element, a non-negative int.
    sums: pairs of a function, from an element to an int, and the largest sum of
      its values in a batch; None instead of a function counts elements. The
      first is the batch size.
    options: the limits, and how much is held back; None for the defaults.
    min_batch_size: the smallest batch, where the limits and the number of
      elements allow it.
    boundaries: lengths that part batches, as in ``Limits``.
    target_secs: how long a batch may take beyond its fixed cost; None for no
      bound.
    whole_target_secs: how long it may take with that; None for no bound.
    clock: returns seconds.
    record_metrics: whether to count what leaves, as BatchingMetrics does.
  """
  def __init__(
      self,
      length_fn: Callable[[Any], int],
      sums: Sequence[tuple[Callable[[Any], int] | None, int]],
      options: BatchingOptions | None = None,
      *,
      min_batch_size: int = 1,
      boundaries: Sequence[int] = (),
      target_secs: float | None = None,
      whole_target_secs: float | None = None,
      clock: Callable[[], float] = time.time,
      record_metrics: bool = True):
    options = options or default_options(min_batch_size)
    self._length_fn = length_fn
    self.sums = sums
    self._fns = [None if fn is one else fn for fn, _ in sums]
    # The same for all elements, where only their number counts.
    self._ones = None if any(self._fns) else [1] * len(sums)
    self.options = options
    self._refuses = options.oversized == 'refuse'
    self.limits = Limits(
        min_batch_size, options.max_padded_size, None, boundaries)
    self._target_secs = target_secs
    self._whole_target_secs = whole_target_secs
    self.clock = clock
    self.metrics = (
        BatchingMetrics(options.metrics_namespace) if record_metrics else None)
    self._key = uuid.uuid4().hex

  def setup(self):
    self.model = shared_cost_model(self._key)
    self.memory = MemoryLimit(self.options.max_padded_size)

  def start_bundle(self):
    self._buffers = collections.defaultdict(_Buffer)
    self._elements = self._bytes = 0

  def process(self, element, window=DoFn.WindowParam):
    held = self.measure(element)
    buffer = self._buffers[window]
    buffer.held.append(held)
    buffer.arrived.append(held.length)
    self._elements += 1
    self._bytes += held.nbytes
    # Two thirds of it, so that the buffer is not cut anew for each batch.
    if self._elements >= self.options.max_buffered_elements:
      return self._emit(
          'full', self.options.max_buffered_elements // 3, self._bytes)
    if self._bytes >= self.options.max_buffered_bytes:
      return self._emit(
          'memory', self._elements, self.options.max_buffered_bytes // 3)

  def finish_bundle(self):
    yield from self._emit('bundle_end', 0, 0)

  def measure(self, element):
    """What the choice of an element's batch needs.

    Raises:
      ValueError: if it cannot be told, or the element is refused.
    """
    held = _Held(
        self._length_fn(element),
        self._ones or [fn(element) if fn else 1 for fn in self._fns],
        approximate_bytes(element),
        self.clock(),
        element)
    if self._refuses and self.is_oversized(held):
      raise ValueError(
          f'An element of length {held.length} alone exceeds a limit of its '
          f'batch: {element!r:.200}. Raise the limit, or let it go alone with '
          "BatchingOptions(oversized='alone').")
    return held

  def is_oversized(self, held):
    largest = self.options.max_padded_size
    return (largest is not None and held.length > largest) or any(
        value > limit for value, (_, limit) in zip(held.values, self.sums))

  def _emit(self, reason, max_elements, max_bytes):
    """Emits batches until no more is held than that, the best first."""
    known, limits, batches = None, None, []
    while self._elements > max_elements or self._bytes > max_bytes:
      # Later costs differ little, and a cut takes time.
      if (not batches or limits.max_padded_size != self._max_padded_size() or
          not self.model.is_settled and known != self.known()):
        # The cost last: another thread may learn it meanwhile, in seconds.
        timed, limits, known = self.is_timed(), self.limits_now(), self.known()
        self._hold(batches)
        batches = self._cut(*known, limits, timed)
      yield from self._emit_one(batches.pop(), reason)
    self._hold(batches)

  def known(self):
    """The cost, and the most elements of a batch while it is being learned."""
    if self.options.cost:
      return self.options.cost, None
    most = _MAX_GROWTH_FACTOR * self.model.largest_count
    most = max(1, self.limits.min_batch_size, most)
    grown = most >= self.sums[0][1]
    return self.model.cost(), None if grown else most

  def limits_now(self):
    """The limits, with that of a batch's time once its cost is in seconds."""
    target = self._target() if self.is_timed() else None
    return dataclasses.replace(
        self.limits,
        max_padded_size=self._max_padded_size(),
        max_variable_cost=target)

  def _max_padded_size(self):
    limit, limits = self.memory.limit, self.limits
    # A minimum and boundaries ask for batches of any size.
    if self.options.cost or limits.min_batch_size > 1 or limits.boundaries:
      return limit
    most = _MAX_GROWTH_FACTOR * self.model.largest_size
    return min(most, limit or most) if most else limit

  def _target(self):
    """How many seconds a batch may take beyond its fixed cost."""
    target, whole = self._target_secs, self._whole_target_secs
    if whole is None:
      return target
    rest = max(0.0, whole - self.model.cost().fixed)
    return rest if target is None else min(target, rest)

  def is_timed(self):
    """Whether the cost is in seconds."""
    return not self.options.cost and self.model.is_learned

  def sums_of(self, values, most_elements):
    """What ``cut_into_runs`` takes as sums, from the values of each element."""
    sums = [([v[i] for v in values], limit)
            for i, (_, limit) in enumerate(self.sums)]
    if most_elements is not None:
      sums.append(([1] * len(values), most_elements))
    return sums

  def _hold(self, batches):
    for batch in batches:
      self._buffers[batch.window].held += batch.held

  def _cut(self, cost, most_elements, limits, timed):
    """Takes all that is held as batches; the last wastes and costs least."""
    batches = []
    for window, buffer in self._buffers.items():
      held, buffer.held = buffer.held, []
      held.sort(key=attrgetter('length'))
      sums = self.sums_of([h.values for h in held], most_elements)
      lengths = [h.length for h in held]
      runs = cut_into_runs(lengths, cost, sums, limits)
      if self.metrics:
        self.metrics.cut(len(held), gap(runs, lengths, cost, sums, limits))
      batches += [
          _Batch(
              window,
              held[run.start:run.end],
              lengths[run.start:run.end],
              run.cost,
              run.waste,
              timed) for run in runs
      ]
    return sorted(batches, key=attrgetter('waste', 'cost'), reverse=True)

  def _emit_one(self, batch, reason):
    self._elements -= len(batch.held)
    self._bytes -= sum([h.nbytes for h in batch.held])
    elements = [h.element for h in batch.held]
    before = self.clock()
    with reported(elements) as report:
      yield windowed_value.WindowedValue(
          elements, batch.window.max_timestamp(), (batch.window, ))
    seconds = self.clock() - before
    failed = report.out_of_memory
    self.learn(len(elements), batch.lengths[-1], seconds, failed)
    self._count(batch, reason, before, seconds)

  def learn(self, count, longest, seconds, failed):
    """Learns what a batch took, or that it did not fit in memory."""
    self.memory.left(count * longest, failed)
    if not failed:
      self.model.learn(count, longest, seconds)

  def _count(self, batch, reason, left, seconds):
    arrived = self._buffers[batch.window].arrived
    first = [arrived.popleft() for _ in batch.held]
    if not arrived:
      del self._buffers[batch.window]
    if not self.metrics:
      return
    if len(batch.held) == 1 and self.is_oversized(batch.held[0]):
      reason = 'limit'
    wait = left - min([h.arrived for h in batch.held])
    self.metrics.batch(batch.lengths, padded_size(first), reason, wait, seconds)
    if batch.timed:
      self.metrics.prediction(batch.cost, seconds)
