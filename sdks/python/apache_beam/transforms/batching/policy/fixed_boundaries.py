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

"""Explicit boundaries: a buffer per bucket, full or flushed at its deadline."""

from bisect import bisect_left
from bisect import bisect_right
from collections.abc import Sequence

from apache_beam.transforms.batching.policy.flushing import FlushPolicy
from apache_beam.transforms.batching.policy.flushing import Span
from apache_beam.transforms.batching.policy.flushing import check_limits


class FixedBoundaries(FlushPolicy):
  """Elements between two boundaries are flushed when there are enough of them.

  As ``WithLengthBucketKey``: boundaries [10, 50] make the buckets below 10,
  from 10 and from 50. Without boundaries there is one, in arrival order but for
  the order inside of a batch. A bucket is also flushed when one of its elements
  is due, or, if it is work-conserving, when the model is idle and the oldest
  element is in it.

  Args:
    boundaries: lengths, ascending.
    max_batch_size: how many elements are enough.
    max_padded_size: the largest padded size of a batch; None for no bound.
    is_work_conserving: whether an idle model is given what is there.
    min_batch_size: fewer buffered elements are flushed when one is due only.

  Raises:
    ValueError: if boundaries are not ascending or a limit is not positive.
  """
  def __init__(
      self,
      boundaries: Sequence[int],
      max_batch_size: int,
      max_padded_size: int | None = None,
      is_work_conserving: bool = False,
      min_batch_size: int = 1):
    if list(boundaries) != sorted(set(boundaries)):
      raise ValueError(f'boundaries={boundaries!r} must ascend.')
    check_limits(max_batch_size=max_batch_size, max_padded_size=max_padded_size)
    self._boundaries = list(boundaries)
    self._max_batch_size = max_batch_size
    self._max_padded_size = max_padded_size
    self._is_work_conserving = is_work_conserving
    self._min_batch_size = min_batch_size

  def added(self, lengths: Sequence[int], first: int, last: int) -> list[Span]:
    spans, index = [], 0
    while index < len(lengths):
      _, end = self._bucket(lengths, index)
      while self._is_full(end - index, lengths[end - 1]):
        spans.append(self._span(lengths, index, end, index))
        index = spans[-1].end
      index = end
    return spans

  def _is_full(self, count, longest):
    largest = self._max_padded_size
    return count >= self._max_batch_size or (
        largest is not None and count * longest >= largest)

  def idle(self, lengths: Sequence[int], index: int) -> Span | None:
    if not self._is_work_conserving or len(lengths) < self._min_batch_size:
      return None
    return self.due(lengths, index)

  def due(self, lengths: Sequence[int], index: int) -> Span:
    start, end = self._bucket(lengths, index)
    return self._span(lengths, start, end, index)

  def _span(self, lengths, start, end, index):
    """The part of a bucket around an index that is no larger than it may be."""
    start = max(start, index + 1 - self._most(lengths[index]))
    end = min(end, start + self._max_batch_size)
    while end > index + 1 and end - start > self._most(lengths[end - 1]):
      end -= 1
    return Span(start, end)

  def _most(self, longest):
    """The most elements of a batch padded to a length."""
    if self._max_padded_size is None or longest == 0:
      return self._max_batch_size
    return max(1, min(self._max_batch_size, self._max_padded_size // longest))

  def _bucket(self, lengths, index):
    number = bisect_right(self._boundaries, lengths[index])
    start, end = 0, len(lengths)
    if number:
      start = bisect_left(lengths, self._boundaries[number - 1])
    if number < len(self._boundaries):
      end = bisect_left(lengths, self._boundaries[number])
    return start, end
