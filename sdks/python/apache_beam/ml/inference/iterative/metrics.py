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

"""The metrics of iterative inference."""

from apache_beam.metrics import Metrics
from apache_beam.ml.inference.iterative.chunk import Chunk
from apache_beam.ml.inference.iterative.result_stream import ResultStream
from apache_beam.ml.inference.iterative.session import Delta


class IterativeMetrics:
  """Beam's counters and distributions, in RunInference's namespace.

  Times are in milliseconds and taken where tokens are made, since a consumer's
  time between chunks would count its own work.

  - ttft_msec: from an input's submission to its first token;
    ttft_from_arrival_msec: from its arrival.
  - inter_chunk_msec: between the last tokens of neighbouring chunks;
    inter_token_msec: that over the tokens of the later one.
  - tokens, chunks, num_inferences, cancelled, resumed, retries.
  - errors, and errors_KIND for each kind of them.
  - checkpoints: of the restrictions of durable inputs; empty_checkpoints: those
    of them without a chunk; checkpoints_per_input: of each input that ended, in
    the process where it did.
  - in_flight: inputs that are generated for, at each submission; queued: those
    of them without a token yet.
  """
  def __init__(self, namespace: str):
    self._namespace = namespace
    self._counters = {}
    self._distributions = {}

  def count(self, name: str, n: int = 1) -> None:
    if n:
      if name not in self._counters:
        self._counters[name] = Metrics.counter(self._namespace, name)
      self._counters[name].inc(n)

  def submitted(self, in_flight: int, queued: int) -> None:
    self._update('in_flight', in_flight)
    self._update('queued', queued)

  def chunk(
      self,
      stream: ResultStream,
      delta: Delta,
      chunk: Chunk,
      made_before: float | None) -> None:
    """Counts a chunk.

    Args:
      stream: which has taken delta and made chunk of it.
      made_before: when the newest token of the chunk before was made.
    """
    self.emitted(chunk)
    self.count('tokens', delta.tokens)
    self.count('retries', delta.retries)
    if delta.tokens > 0 and made_before is None:
      self._msec('ttft_msec', stream.first_made - stream.submitted)
      self._msec('ttft_from_arrival_msec', stream.first_made - stream.arrived)
    elif delta.tokens > 0:
      between = delta.made - made_before
      self._msec('inter_chunk_msec', between)
      self._msec('inter_token_msec', between / delta.tokens)

  def checkpoints(self, n: int) -> None:
    """A durable input ended after so many."""
    self._update('checkpoints_per_input', n)

  def emitted(self, chunk: Chunk) -> None:
    """Counts a chunk, and how its input ended if it is the last."""
    self.count('chunks')
    if not chunk.is_last:
      return
    self.count('num_inferences')
    if chunk.finish_reason == 'cancelled':
      self.count('cancelled')
    elif chunk.finish_reason == 'error':
      self.count('errors')
      self.count(f'errors_{chunk.error_kind}')

  def _msec(self, name, seconds):
    self._update(name, round(1000 * seconds))

  def _update(self, name, value):
    if name not in self._distributions:
      self._distributions[name] = Metrics.distribution(self._namespace, name)
    self._distributions[name].update(max(value, 0))
