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

"""What is in state, whatever a runner does, and that nothing stays there."""

import collections
import copy
import sys
import unittest
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine
from hypothesis.stateful import invariant
from hypothesis.stateful import rule

import apache_beam as beam
from apache_beam.io.restriction_trackers import OffsetRange
from apache_beam.io.restriction_trackers import OffsetRestrictionTracker
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.fn_api_runner import worker_handlers
from apache_beam.testing.inference.batching_runner import WAIT
from apache_beam.testing.inference.batching_runner import WINDOW
from apache_beam.testing.inference.batching_runner import FakeRunner
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.transforms import window
from apache_beam.transforms.batching.options import BatchingOptions
from apache_beam.transforms.batching.policy.least_cost import Cost
from apache_beam.utils.timestamp import Timestamp

_MOST = 9
_bundles = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 999)), min_size=1, max_size=6)


class BufferMachine(RuleBasedStateMachine):
  """Bundles that arrive, are retried, timers that fire in time, early, again,
  or for nothing, and windows that end, with elements that come after that."""
  optimize_for = 'cost'

  def __init__(self):
    super().__init__()
    options = BatchingOptions(
        max_buffered_elements=_MOST,
        max_padded_size=100,
        optimize_for=self.optimize_for)
    self.runner = FakeRunner(options, max_batch_size=4)
    # The event time of each element, and when it was measured.
    self.arrived = {}
    self.measured = {}
    self.set_back = 0

  def _runs(self, bundle, fails):
    """Runs a bundle, a second time where the first one fails at its end."""
    if fails:
      kept = ('bags', 'header', 'log', 'deadline', 'window_end', 'left', 'now')
      before = {name: copy.deepcopy(vars(self.runner)[name]) for name in kept}
      bundle()
      vars(self.runner).update(before)
    bundle()

  @rule(
      elements=_bundles,
      fails=st.booleans(),
      late=st.sampled_from([0, 0, 1, 7, 2 * WAIT]))
  def arrive(self, elements, fails, late):
    bundle = []
    for length, timestamp in elements:
      element = (len(self.arrived), length)
      self.arrived[element] = timestamp
      self.measured[element] = self.runner.now - late
      bundle.append((element, timestamp))
    self._runs(lambda: self.runner.arrive_together(bundle, late), fails)

  @rule(seconds=st.integers(0, 2 * WAIT))
  def pass_time(self, seconds):
    self.runner.pass_time(seconds)

  @rule(timestamp=st.integers(0, 2000), fails=st.booleans())
  def fire_for_nothing_or_early(self, timestamp, fails):
    self._runs(lambda: self.runner.fire_deadline(timestamp), fails)

  @rule(fails=st.booleans())
  def end_window(self, fails):
    self._runs(self.runner.end_window, fails)
    assert self.runner.is_empty()

  @rule(seconds=st.integers(1, 100))
  def set_clock_back(self, seconds):
    self.runner.now -= seconds
    self.set_back += seconds

  @invariant()
  def each_element_waits_or_left_once(self):
    left = collections.Counter(
        e for batch, _, _ in self.runner.left for e in batch)
    assert set(left) <= set(self.arrived) and set(left.values()) <= {1}
    held, buffer = self.runner.held, self.runner.buffer
    assert sorted(held) == sorted(set(self.arrived) - set(left))
    assert len(held) < _MOST
    assert (buffer is None) == (not held)
    if held:
      # There is a timer for each way to be flushed.
      assert buffer.lengths == sorted(length for _, length in held)
      assert self.runner.window_end.at == float(WINDOW.max_timestamp())
      last = max(
          min(self.measured[element] for element in held) + WAIT,
          buffer.gathers_until / 1e6) + self.set_back
      assert self.runner.deadline.at <= last + 1e-6

  @invariant()
  def batches_keep_limits_and_are_in_time(self):
    for batch, timestamp, _ in self.runner.left:
      longest = max(length for _, length in batch)
      assert len(batch) == 1 or (
          len(batch) <= 4 and len(batch) * longest <= 100)
      newest = max(self.arrived[element] for element in batch)
      assert Timestamp(newest) <= timestamp <= WINDOW.max_timestamp()

  def teardown(self):
    self.runner.end_window()
    left = [e for batch, _, _ in self.runner.left for e in batch]
    assert sorted(left) == sorted(self.arrived)
    assert self.runner.is_empty()


class WorkConservingMachine(BufferMachine):
  """Calls take time, in which the next group is queued."""
  optimize_for = 'latency'

  def __init__(self):
    super().__init__()
    self.runner.cost = Cost(0.5, 0.01)


BufferMachineTest = BufferMachine.TestCase
WorkConservingMachineTest = WorkConservingMachine.TestCase
WorkConservingMachineTest.settings = settings(
    deadline=None, max_examples=50, stateful_step_count=30)
BufferMachineTest.settings = settings(
    deadline=None, max_examples=50, stateful_step_count=30)


class NothingStaysTest(unittest.TestCase):
  def _run(self, transform, expected, windows_used=1, **runner):
    """Runs a pipeline, checks its output and that no state is left."""
    used, servicers = set(), set()
    append = worker_handlers.StateServicer.append_raw

    def record(servicer, key, data):
      servicers.add(servicer)
      used.add(key.SerializeToString())
      return append(servicer, key, data)

    options = PipelineOptions(['--experiments=smart_bucketing'])
    with mock.patch.object(worker_handlers.StateServicer, 'append_raw', record):
      with TestPipeline(runner=FnApiRunner(**runner), options=options) as p:
        assert_that(p | transform, equal_to(expected))
    # A header, a log and a bucket of each window were there.
    self.assertGreaterEqual(len(used), 3 * windows_used)
    left = [list(cell) for s in servicers for cell in s._state.values()]
    self.assertEqual(0, sum(map(bool, left)))

  def test_an_hour_of_many_windows(self):
    # A thousand, and ten thousand in the soak.
    windows = min(10_000, 10 * settings().max_examples)
    size = 3600 / windows
    self._run(
        beam.Create([None])
        | beam.FlatMap(lambda _: range(2 * windows))
        | beam.Map(
            lambda i: window.TimestampedValue(1 + i % 7, size * (i // 2 + 0.5)))
        | beam.WindowInto(window.FixedWindows(size))
        | _batches()
        | beam.Map(len)
        | 'One' >> beam.WindowInto(window.GlobalWindows())
        | beam.CombineGlobally(sum).without_defaults(), [2 * windows],
        windows_used=windows)

  def test_a_drain(self):
    for windows in (window.GlobalWindows(), window.FixedWindows(10)):
      with self.subTest(windows):
        self._run(
            beam.Create([None])
            | beam.ParDo(_Endless())
            | beam.Map(lambda i: window.TimestampedValue(i, i))
            | beam.WindowInto(windows)
            | _batches()
            | beam.FlatMap(lambda batch: batch),
            range(30),
            is_drain=True)


def _batches():
  # More than ever wait, so that no batch is full.
  return beam.BatchElements(
      max_batch_size=64,
      length_fn=lambda length: 1 + length % 7,
      max_batch_duration_secs=3600,
      options=BatchingOptions(optimize_for='cost'))


class _Truncated(beam.transforms.core.RestrictionProvider):
  """Of a source without an end, of which a drain still reads 30 numbers."""
  def initial_restriction(self, element):
    return OffsetRange(0, sys.maxsize)

  def create_tracker(self, restriction):
    return _Unbounded(restriction)

  def restriction_size(self, element, restriction):
    return restriction.size()

  def truncate(self, element, restriction):
    return OffsetRange(restriction.start, 30)


class _Unbounded(OffsetRestrictionTracker):
  def is_bounded(self):
    return False


class _Endless(beam.DoFn):
  """Numbers, 7 in a bundle."""
  def process(self, element, tracker=beam.DoFn.RestrictionParam(_Truncated())):
    number = tracker.current_restriction().start
    while tracker.try_claim(number):
      yield number
      number += 1
      if number % 7 == 0:
        tracker.defer_remainder()
        return


if __name__ == '__main__':
  unittest.main()
