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

"""A request that lacks chunks, and when to give it up."""

import dataclasses

from apache_beam.ml.inference.iterative.chunk import Chunk
from apache_beam.ml.inference.iterative.ordering import Arrivals


class Incomplete:
  """The chunks of a request that have arrived, and when the newest did.

  Args:
    state: an earlier value of ``state``; None if no chunk has arrived.

  Attributes:
    arrivals: of its chunks.
    newest_msec: when the newest arrived, by ``time.time`` in milliseconds.
    timer_msec: when the processing-time timer fires; 0 if none is set.
    stamp_micros: an event time that is not late while nothing was emitted.
  """
  def __init__(self, state: tuple[int, ...] | None = None):
    (self.newest_msec, self.timer_msec, self.stamp_micros,
     *arrivals) = state or (0, 0, 0, 0)
    self.arrivals = Arrivals(arrivals)

  @property
  def state(self) -> tuple[int, ...]:
    return (
        self.newest_msec,
        self.timer_msec,
        self.stamp_micros,
        *self.arrivals.state)

  def give_up_msec(self, secs: float) -> int:
    """When to give up, if nothing arrives for so long."""
    return self.newest_msec + round(1000 * secs)

  def end(self, request_id: str, why: str, last: Chunk | None) -> Chunk:
    """The last chunk of the request, an error that names what did not arrive.

    Args:
      request_id: of the request.
      why: it is given up.
      last: the last chunk, if that has arrived.
    """
    index = self.arrivals.next
    last = last or Chunk(request_id, index)
    return dataclasses.replace(
        last,
        index=index,
        text='',
        token_ids=(),
        values=None,
        finish_reason='error',
        error=f'lost: chunk {index} of request {request_id!r} did not arrive '
        f'{why}')
