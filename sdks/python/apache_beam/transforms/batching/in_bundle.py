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
import math
import time
import uuid
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from apache_beam.transforms.batching.memory import approximate_bytes
from apache_beam.transforms.batching.metrics import BatchingMetrics
from apache_beam.transforms.batching.opt_in import default_options
from apache_beam.transforms.batching.options import BatchingOptions
from apache_beam.transforms.batching.policy.learned import learned_of
from apache_beam.transforms.batching.policy.least_cost import padded_size
from apache_beam.transforms.batching.policy.lookahead import Limits
from apache_beam.transforms.batching.policy.lookahead import cut_into_runs
from apache_beam.transforms.batching.policy.lookahead import gap
from apache_beam.transforms.batching.policy.memory_limit import reported
from apache_beam.transforms.batching.user_functions import brief
from apache_beam.transforms.batching.validation import one
from apache_beam.transforms.core import DoFn
from apache_beam.utils import windowed_value

# By how much a batch may be larger than the largest before it, in elements as in
# BatchElements' estimator and in padded size, as what a larger one costs per token
# is not known: MiniLM-L6 on 2 cores takes 15 % more above 5,000 tokens.
_MAX_GROWTH_FACTOR = 2
# Sizes are compared with limits and added up, so that infinity would not do.
_LARGEST_SIZE = 1 << 53
# Seconds for each buffered element that another cut has to save; it takes a third
# of that.
_SECS_OF_A_CUT = 1e-5
# How many elements are buffered before the first batch, from whose time follows
# how many may be.
_FIRST_BUFFERED = 32
# After how many elements the model's time for all of them is looked at.
_LOOK_EVERY = 8
# Batches to choose from that are buffered however long the model takes for them.
_LEAST_BATCHES = 8


@dataclasses.dataclass(slots=True)
class Measured:
  """An element with all that the choice of its batch needs.

  Args:
    length: of the element.
    values: those whose sums are limited, in the order of the limits.
    nbytes: about how much memory it takes.
    arrived: when, in seconds.
    element: itself.
  """
  length: int
  values: Sequence[float]
  nbytes: int
  arrived: float
  element: Any


@dataclasses.dataclass(slots=True)
class _Buffer:
  """What is buffered of one window.

  ``arrived`` are lengths in the order in which they came, to tell what batching
  in that order would have cost.
  """
  held: list[Measured] = dataclasses.field(default_factory=list)
  arrived: collections.deque[int] = dataclasses.field(
      default_factory=collections.deque)


@dataclasses.dataclass(frozen=True, slots=True)
class _Batch:
  """Buffered elements of one window, ascending by length.

  The cost is in seconds if it is ``timed``.
  """
  window: Any
  held: list[Measured]
  lengths: list[int]
  cost: float
  waste: float
  timed: bool


class _Amount:
  """How much is buffered in all windows."""
  def __init__(self):
    self.elements = self.nbytes = 0
    # Sums of lengths and of their squares, from which follows the model's time.
    self.length = self.square = 0

  def add(self, held: Measured) -> None:
    length = held.length
    self.elements += 1
    self.nbytes += held.nbytes
    self.length += length
    self.square += length * length

  def remove(self, batch: Sequence[Measured]) -> None:
    for held in batch:
      self.elements -= 1
      self.nbytes -= held.nbytes
      self.length -= held.length
      self.square -= held.length * held.length


class LengthBatchingDoFn(DoFn):
  """Buffers elements, sorts them by length and cuts them at least cost.

  A batch holds elements of one window and is emitted in it, at its end, as
  ``BatchElements`` does it. The order of elements is not kept. What is buffered
  at the end of the bundle is emitted then, so a retried bundle loses and
  duplicates nothing.

  What a batch costs is learned from the time that the fused consumers take for
  it; a batch has at most twice the elements and, without a minimum and
  boundaries, twice the padded size of the largest before it. All threads of a
  process learn together, over bundles and windows.

  Args:
    length_fn: the length of an element, a non-negative int.
    sums: pairs of a function, from an element to a number, and the largest sum
      of its values in a batch; None instead of a function counts elements. The
      first is the batch size.
    options: the limits, and how much is buffered; None for the defaults.
    min_batch_size: the smallest batch, where the limits and the number of
      elements allow it.
    boundaries: lengths that part batches, as in ``Limits``.
    target_secs: how long a batch may take beyond its fixed cost; None for no
      bound.
    whole_target_secs: how long it may take with that; None for no bound.
    clock: returns seconds.
    record_metrics: whether to count batches, as BatchingMetrics does.
    model: names the model whose costs are learned; None for one of its own.
    is_measured: whether the elements are ``Measured`` ones.
  """
  def __init__(
      self,
      length_fn: Callable[[Any], int],
      sums: Sequence[tuple[Callable[[Any], float] | None, float]],
      options: BatchingOptions | None = None,
      *,
      min_batch_size: int = 1,
      boundaries: Sequence[float] = (),
      target_secs: float | None = None,
      whole_target_secs: float | None = None,
      clock: Callable[[], float] = time.time,
      record_metrics: bool = True,
      model: str | None = None,
      is_measured: bool = False):
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
    self._model = model or uuid.uuid4().hex
    self._is_measured = is_measured
    # In sliding windows an element comes once for each of its windows.
    self._last: tuple[Any, Measured | None] = None, None

  def setup(self):
    # Held, since it goes with the last who holds it.
    self._learned = learned_of(self._model)
    self.model, self.memory = self._learned.cost, self._learned.memory

  def start_bundle(self):
    self._buffers = collections.defaultdict(_Buffer)
    self._amount = _Amount()
    # When the model's time was last too long, and the time before that: what
    # arrived before the latter has been passed over once.
    self._began = self._overdue = -math.inf

  def process(self, element, window=DoFn.WindowParam):
    held = self.measured(element)
    buffer, amount, options = self._buffers[window], self._amount, self.options
    buffer.held.append(held)
    buffer.arrived.append(held.length)
    amount.add(held)
    # Two thirds of it, so that the buffer is not cut anew for each batch.
    if amount.elements >= options.max_buffered_elements:
      return self._emit('full', elements=options.max_buffered_elements // 3)
    if amount.nbytes >= options.max_buffered_bytes:
      return self._emit('memory', nbytes=options.max_buffered_bytes // 3)
    if amount.elements % _LOOK_EVERY:
      return ()
    if self._is_unknown_model():
      return self._emit('model_time', elements=amount.elements - 1)
    if options.max_buffered_secs is not None and self._takes_too_long():
      self._overdue, self._began = self._began, self.clock()
      return self._emit(
          'model_time',
          elements=_LEAST_BATCHES * self.model.usual_count / 3,
          secs=options.max_buffered_secs / 3)
    return ()

  def finish_bundle(self):
    yield from self._emit('bundle_end')
    self._last = None, None

  def measured(self, element: Any) -> Measured:
    """The element of a step before as a measured one, which it may be."""
    return element if self._is_measured else self.measure(element)

  def measure(self, element: Any) -> Measured:
    """What the choice of an element's batch needs.

    Raises:
      ValueError: if the element is refused; and what the functions raise.
    """
    last, held = self._last
    if held is None or last is not element:
      held = Measured(
          self._length_fn(element),
          self._ones or [_size(fn, element) for fn in self._fns],
          approximate_bytes(element),
          self.clock(),
          element)
      if self._refuses and self.is_oversized(held):
        raise ValueError(
            f'An element of length {held.length} alone exceeds a limit of its '
            f'batch: {brief(element)}. Raise the limit, or let it go alone with '
            "BatchingOptions(oversized='alone').")
      self._last = element, held
      return held
    return dataclasses.replace(held, arrived=self.clock())

  def is_oversized(self, held):
    largest = self.options.max_padded_size
    return (largest is not None and held.length > largest) or any(
        value > limit for value, (_, limit) in zip(held.values, self.sums))

  def _takes_too_long(self):
    """Whether the model will take longer for what is buffered than it may."""
    return (
        self.is_timed() and
        self._amount.elements >= _LEAST_BATCHES * self.model.usual_count and
        self._predicted_secs() >= self.options.max_buffered_secs)

  def _is_unknown_model(self):
    """Whether a first batch is to tell how long the model takes."""
    return (
        self._amount.elements == _FIRST_BUFFERED and
        not self.model.largest_count and not self.options.cost and
        self.limits.min_batch_size <= _FIRST_BUFFERED)

  def _predicted_secs(self):
    """How long the model will take for all that is buffered, without padding."""
    cost, amount = self.model.fitted, self._amount
    return (
        cost.per_token * amount.length +
        cost.per_token_squared * amount.square +
        cost.fixed * amount.elements / self.model.usual_count)

  def _emit(
      self,
      reason: str,
      elements: float = 0,
      nbytes: float = 0,
      secs: float = 0) -> Iterator[Any]:
    """Emits batches while more is buffered than all of that, the best first."""
    was, batches, amount = None, [], self._amount
    while (amount.elements > elements and
           (not nbytes or amount.nbytes > nbytes) and
           (not secs or self._predicted_secs() > secs)):
      # The cost last: another thread may learn it meanwhile, in seconds.
      timed, limits, known = self.is_timed(), self.limits_now(), self.known()
      if not batches or self._is_outdated(batches, was, (limits, known)):
        self._hold(batches)
        cost, most = known
        batches = self._cut(cost, most, limits, timed)
      was = limits, known
      yield from self._emit_one(batches.pop(), reason)
    self._hold(batches)

  def _is_outdated(self, batches, was, now):
    """Whether what was learned since makes another cut worth its time."""
    (old_limits, old_known), (limits, (cost, _)) = was, now
    old, most = old_limits.max_padded_size, limits.max_padded_size
    if most is not None and (old is None or most < old):
      return True
    if most == old and (self.model.is_settled or old_known == now[1]):
      return False
    amount = self._amount
    total = sum(cost.of(len(b.held), b.lengths[-1]) for b in batches)
    least = (
        cost.per_token * amount.length +
        cost.per_token_squared * amount.square +
        cost.fixed * amount.elements / self.sums[0][1])
    return total - least > _SECS_OF_A_CUT * amount.elements

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

  def is_larger(self, padded_size):
    """Whether a batch is larger than any whose cost was learned."""
    return not self.options.cost and padded_size > self.model.largest_size

  def _max_padded_size(self):
    limits = [self.options.max_padded_size, self.memory.limit]
    # A minimum and boundaries ask for batches of any size.
    if not (self.options.cost or self.limits.min_batch_size > 1 or
            self.limits.boundaries):
      limits.append(_MAX_GROWTH_FACTOR * self.model.largest_size or None)
    return min((limit for limit in limits if limit is not None), default=None)

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
    """Takes all that is buffered as batches; the last wastes and costs least."""
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
    return sorted(batches, key=self._order, reverse=True)

  def _order(self, batch):
    """The least first: one larger than any before, which tells what those cost;
    then one that holds what was passed over; then one that wastes little."""
    size, overdue = batch.lengths[-1] * len(batch.held), self._overdue
    in_time = overdue == -math.inf or all(
        held.arrived >= overdue for held in batch.held)
    larger = size if self.is_larger(size) else 0
    return -larger, in_time, batch.waste, batch.cost

  def _emit_one(self, batch, reason):
    self._amount.remove(batch.held)
    elements = [h.element for h in batch.held]
    before = self.clock()
    with reported(elements) as report:
      yield windowed_value.WindowedValue(
          elements, batch.window.max_timestamp(), (batch.window, ))
    seconds = self.clock() - before
    self.learn(len(elements), batch.lengths[-1], seconds, report.out_of_memory)
    self._count(batch, reason, before, seconds)

  def learn(self, count, longest, seconds, failed):
    """Learns what a batch took, or that it did not fit in memory."""
    self.memory.learn(count * longest, failed)
    if not failed:
      self.model.learn(count, longest, seconds)

  def _count(self, batch, reason, emitted, seconds):
    arrived = self._buffers[batch.window].arrived
    first = [arrived.popleft() for _ in batch.held]
    if not arrived:
      del self._buffers[batch.window]
    if not self.metrics:
      return
    if len(batch.held) == 1 and self.is_oversized(batch.held[0]):
      reason = 'limit'
    wait = emitted - min([h.arrived for h in batch.held])
    self.metrics.batch(batch.lengths, padded_size(first), reason, wait, seconds)
    if batch.timed:
      self.metrics.prediction(batch.cost, seconds)


def _size(fn, element):
  """What counts against a limit; a size may be any number, as in 2.77."""
  return min(max(0, fn(element)), _LARGEST_SIZE) if fn else 1
