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

"""Puts the chunks of a request back in order, and together."""

import dataclasses
from bisect import bisect_right
from collections.abc import Iterable
from collections.abc import Sequence

import numpy as np

from apache_beam.ml.inference.iterative.chunk import Chunk


class Arrivals:
  """Which chunks of a request have come, in any order.

  Args:
    state: what ``state`` said before. It has two numbers for each run of
      indices without a gap, so one run where chunks come in order.
  """
  def __init__(self, state: Sequence[int] = (0, )):
    # How many chunks there will be; 0 as long as the last has not come.
    self._total = state[0]
    # Where runs start and end, in turn; ascending.
    self._edges = list(state[1:])

  @property
  def state(self) -> tuple[int, ...]:
    return (self._total, *self._edges)

  @property
  def next(self) -> int:
    """The first index that has not come."""
    return self._edges[1] if self._edges and self._edges[0] == 0 else 0

  @property
  def are_complete(self) -> bool:
    """Whether the last chunk has come and all before it."""
    return 0 < self._total == self.next

  def add(self, chunk: Chunk) -> None:
    """Takes note of a chunk.

    Raises:
      ValueError: if its index came before, or is after the last one: then two
        inputs have the same request id.
    """
    index, edges = chunk.index, self._edges
    at = bisect_right(edges, index)
    if at % 2:
      raise ValueError(_twice(chunk, f'chunk {index} came twice'))
    follows = chunk.is_last and edges and edges[-1] > index
    if follows or self._total and (chunk.is_last or index >= self._total):
      raise ValueError(_twice(chunk, f'chunk {index} and the last one clash'))
    if chunk.is_last:
      self._total = index + 1
    ends_here = at > 0 and edges[at - 1] == index
    starts_behind = at < len(edges) and edges[at] == index + 1
    edge = [index] * (not ends_here) + [index + 1] * (not starts_behind)
    edges[at - ends_here:at + starts_behind] = edge


def _twice(chunk, what):
  return (
      f'request {chunk.request_id!r}: {what}. Two inputs have this request id; '
      'let IterativeOptions.request_id_fn give each input its own.')


def split_at(chunks: Iterable[Chunk],
             index: int) -> tuple[list[Chunk], list[Chunk]]:
  """Those below an index, in order, and the others."""
  below, others = [], []
  for chunk in chunks:
    (below if chunk.index < index else others).append(chunk)
  below.sort(key=lambda chunk: chunk.index)
  return below, others


def join(chunks: Iterable[Chunk]) -> Chunk:
  """The last chunk of a request, with the text, tokens and values of all.

  Values are joined along their first axis; scalars become an array.

  Args:
    chunks: all of a request, in any order.
  """
  chunks = sorted(chunks, key=lambda chunk: chunk.index)
  values = [c.values for c in chunks if c.values is not None]
  return dataclasses.replace(
      chunks[-1],
      text=''.join(c.text for c in chunks),
      token_ids=tuple(t for c in chunks for t in c.token_ids),
      values=np.concatenate([np.atleast_1d(v)
                             for v in values]) if values else None)
