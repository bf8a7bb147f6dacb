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

"""Who leaves when: the interface of the policies that let elements wait.

Elements wait in one buffer, sorted by length. Its owner holds them and knows
the time; a policy sees lengths and answers with runs of neighbours. It is asked
when an element has arrived and when one has waited for as long as it may; over
a limit of the buffer the owner asks as if the oldest had.
"""

import abc
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ['Leaving', 'WaitingPolicy']


class Leaving(NamedTuple):
  """A batch that leaves.

  Args:
    start: the index of its first element.
    end: the index behind its last.
  """
  start: int
  end: int


class WaitingPolicy(abc.ABC):
  """Decides which waiting elements leave together."""
  @abc.abstractmethod
  def arrived(self, lengths: Sequence[int], index: int,
              number: int) -> list[Leaving]:
    """What leaves at once, now that an element is there: runs, ascending.

    Args:
      lengths: of all that wait, ascending.
      index: of the element that arrived.
      number: how many arrived before it.
    """

  @abc.abstractmethod
  def due(self, lengths: Sequence[int], index: int) -> Leaving:
    """What leaves with an element that waits no longer.

    Args:
      lengths: of all that wait, ascending.
      index: of the element; the run holds it.
    """

  def left(self, lengths: Sequence[int]) -> None:
    """Learns from a batch, its lengths ascending, that did leave."""
