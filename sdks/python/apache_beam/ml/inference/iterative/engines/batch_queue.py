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

"""Which requests a model that runs a batch at a time takes next. No Beam here.
"""

import dataclasses
import time
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from apache_beam.ml.inference.iterative.session import Request
from apache_beam.transforms.batching.policy.cost_model import CostModel
from apache_beam.transforms.batching.policy.lookahead import Limits
from apache_beam.transforms.batching.policy.lookahead import cut_into_runs

# A batch that is smaller than the minimum waits so long for one more request.
_SETTLE_SECS = 0.1


@dataclasses.dataclass(frozen=True)
class BatchLimits:
  """What bounds a batch, as the parameters of ModelHandler do.

  Attributes:
    min_batch_size: what a batch waits for, for a moment.
    max_batch_size: the most requests; None: no bound.
    max_batch_weight: the largest sum of element_size_fn; None: no bound.
    element_size_fn: the weight of a prompt.
    bucket_boundaries: lengths that part batches by length.
  """
  min_batch_size: int = 1
  max_batch_size: int | None = None
  max_batch_weight: int | None = None
  element_size_fn: Callable[[Any], int] | None = None
  bucket_boundaries: Sequence[int] = ()

  def sums(self, entries: Sequence['_Entry']) -> list[tuple[list[int], int]]:
    """Values of requests, and the limit of their sum in a batch."""
    sums = []
    if self.max_batch_size is not None:
      sums.append(([1] * len(entries), self.max_batch_size))
    if self.max_batch_weight is not None:
      sums.append(([entry.weight for entry in entries], self.max_batch_weight))
    return sums


@dataclasses.dataclass(slots=True, eq=False)
class _Entry:
  request: Request
  weight: int
  # Those that were batched by length before are run as they are.
  batch: object | None = None
  added: float = 0.0
  # Whether to wait for more of them.
  may_wait: bool = True


class BatchQueue:
  """Requests that wait, in the order of arrival. For one thread at a time.

  A batch holds the oldest request, and others of the same args: those that came
  next or, where lengths are known, those of similar length.

  Args:
    limits: of a batch.
    clock: of ``time.monotonic``.
  """
  def __init__(
      self,
      limits: BatchLimits = BatchLimits(),
      clock: Callable[[], float] = time.monotonic):
    self._limits = limits
    self._clock = clock
    self._entries: list[_Entry] = []
    self._model = CostModel()

  def __len__(self) -> int:
    return len(self._entries)

  def entry(self, request: Request) -> _Entry:
    """What is added of a request; raises what element_size_fn raises."""
    weigh = self._limits.element_size_fn
    return _Entry(request, 1 if weigh is None else weigh(request.prompt))

  def add(self, entry: _Entry) -> None:
    entry.added = self._clock()
    self._entries.append(entry)

  def add_batch(self, entries: Sequence[_Entry], fixed: bool) -> None:
    """Adds a batch, which is run as it is if it is fixed, else within limits.
    """
    batch = object() if fixed else None
    for entry in entries:
      entry.batch, entry.may_wait = batch, False
      self.add(entry)

  def remove(self, request_id: str) -> None:
    self._entries = [
        entry for entry in self._entries
        if entry.request.request_id != request_id
    ]

  def wait_secs(self) -> float:
    """How long to wait for more before the next batch is taken."""
    found = self._candidates()
    if len(found) >= self._limits.min_batch_size or not all(entry.may_wait
                                                            for entry in found):
      return 0.0
    newest = max((entry.added for entry in found), default=0.0)
    return max(newest + _SETTLE_SECS - self._clock(), 0.0)

  def take(self) -> list[Request]:
    """The next batch; empty if nothing waits."""
    found = self._candidates()
    if found and found[0].batch is None:
      lengths = [entry.request.length for entry in found]
      pick = self._next if None in lengths else self._of_similar_length
      found = pick(found)
    taken = set(map(id, found))
    self._entries = [e for e in self._entries if id(e) not in taken]
    return [entry.request for entry in found]

  def learn(self, requests: Sequence[Request], seconds: float) -> None:
    """Learns what a batch took."""
    lengths = [r.length for r in requests if r.length is not None]
    if len(lengths) == len(requests):
      self._model.learn(len(lengths), max(lengths), seconds)

  def _candidates(self):
    """Those that may be in a batch with the oldest, which is the first."""
    if not self._entries:
      return []
    oldest = self._entries[0]
    return [
        entry for entry in self._entries if entry.batch is oldest.batch and
        entry.request.args == oldest.request.args
    ]

  def _next(self, entries):
    """The longest start of them that is within all limits."""
    sums = self._limits.sums(entries)
    end = len(entries)
    for values, limit in sums:
      total = 0
      for i, value in enumerate(values[:end]):
        total += value
        # One that is over a limit goes alone.
        if total > limit and i:
          end = i
          break
    return entries[:end]

  def _of_similar_length(self, entries):
    oldest = entries[0]
    entries = sorted(entries, key=lambda entry: entry.request.length)
    limits = self._limits
    runs = cut_into_runs([entry.request.length for entry in entries],
                         self._model.cost(),
                         limits.sums(entries),
                         Limits(
                             limits.min_batch_size,
                             boundaries=limits.bucket_boundaries))
    batches = [entries[run.start:run.end] for run in runs]
    return next(batch for batch in batches if oldest in batch)
