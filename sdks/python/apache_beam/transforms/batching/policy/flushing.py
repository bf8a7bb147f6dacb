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

"""Which buffered elements are flushed together, and when: the interface.

Elements are buffered in the order of their lengths. The owner of the buffer
holds them and knows the time; a policy sees lengths and returns spans of
neighbours. It is asked when elements were added, when the model is idle, and
when an element is due; over a limit of the buffer the owner asks as if the
oldest were due.
"""

import abc
from collections.abc import Sequence
from typing import NamedTuple

# The model is overloaded when an element waits so many times as long as it may.
# At 1 a percent fewer texts come out a second (tools/bench/waiting.py).
OVERLOADED = 2


class Span(NamedTuple):
  """A batch of neighbours.

  Args:
    start: the index of its first element.
    end: the index after its last.
  """
  start: int
  end: int


class FlushPolicy(abc.ABC):
  """Decides which buffered elements are flushed together."""
  def added(self, lengths: Sequence[int], first: int, last: int) -> list[Span]:
    """What is flushed at once, now that elements were added: spans, ascending.

    Args:
      lengths: of all that is buffered, ascending.
      first: how many elements were ever added before these.
      last: how many with these.
    """
    return []

  def idle(self, lengths: Sequence[int], index: int) -> Span | None:
    """What is flushed while the model has nothing to do; None for nothing.

    Args:
      lengths: of all that is buffered, ascending.
      index: of the oldest element; the span holds it.
    """
    return None

  @abc.abstractmethod
  def due(self, lengths: Sequence[int], index: int) -> Span:
    """What is flushed with an element that is due.

    Args:
      lengths: of all that is buffered, ascending.
      index: of the element; the span holds it.
    """

  def overloaded(self, lengths: Sequence[int]) -> list[Span]:
    """What is flushed, before anything is added, once the oldest element has
    waited ``OVERLOADED`` times as long as it may; empty for what is due alone.

    Args:
      lengths: of all that is buffered, ascending.

    Returns:
      Spans in the order in which they are flushed, each as it is once those
      before it are gone.
    """
    return []

  def flushed(self, lengths: Sequence[int]) -> None:
    """Learns from a batch, its lengths ascending, that was flushed."""


def check_limits(**limits: int | None) -> None:
  """Raises a ValueError for a limit that is not positive; None is no limit."""
  for name, value in limits.items():
    if value is not None and value < 1:
      raise ValueError(f'{name}={value!r} must be positive.')
