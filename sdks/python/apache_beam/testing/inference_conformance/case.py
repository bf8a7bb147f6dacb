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

"""A pipeline with a known outcome, and what all of them share."""

import dataclasses
import time
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import apache_beam as beam

# In streaming: for how long elements arrive, and how much later than they are
# set the timers of a runner may fire.
ARRIVAL_SECS = 6
TIMER_SECS = 2.5
# A pipeline and its workers start meanwhile.
_START_SECS = 10


@dataclasses.dataclass(frozen=True)
class Case:
  """A pipeline with a known outcome.

  Attributes:
    guarantee: what holds if the case passes.
    experiment: what it switches on.
    build: makes a PCollection of observations in a pipeline.
    judge: counts, from the list of all observations; a count whose name begins
      with ``bad_`` is 0 if the guarantee holds, others are figures.
    needs_streaming: whether it says something only with ``--streaming``.
    metrics: names of metrics of Beam's that have to arrive and not be 0.
  """
  guarantee: str
  experiment: str
  build: Callable[[beam.Pipeline], beam.PCollection]
  judge: Callable[[Sequence[Any]], Mapping[str, int]]
  needs_streaming: bool = False
  metrics: tuple[str, ...] = ()


def start() -> float:
  """When elements begin to arrive, in seconds since the epoch."""
  # A whole number, so that a period divides what follows exactly.
  return float(round(time.time()) + _START_SECS)
