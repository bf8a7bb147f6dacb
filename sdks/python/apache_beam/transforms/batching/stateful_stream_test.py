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

"""Elements that wait while time and the watermark move."""

import contextlib
import unittest
from unittest import mock

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.pipeline_options import StandardOptions
from apache_beam.runners.direct.direct_userstate import DirectUserStateContext
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.test_stream import TestStream
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.transforms import trigger
from apache_beam.transforms import window
from apache_beam.transforms.batching.options import BatchingOptions
from apache_beam.transforms.batching.policy.least_cost import Cost

_WAIT = 100


class _Clock:
  """Stands still, so that real time is what the stream says."""
  def __call__(self):
    return 0.0


class _Describe(beam.DoFn):
  def process(self, batch, timestamp=beam.DoFn.TimestampParam):
    yield batch, float(timestamp)


class _Collect(beam.DoFn):
  """Not behind a step that groups, whose windows this runner closes before it
  fires the timers."""
  found = []

  def process(self, batch):
    self.found.append(batch)


@contextlib.contextmanager
def _count_state():
  """How many values the one key has in state after each bundle."""
  commit, held = DirectUserStateContext.commit, []

  def record(context):
    commit(context)
    key, = context.step_context.partial_keyed_state.values()
    cells = [cell for cells in key.state.values() for cell in cells.values()]
    held.append(sum(map(len, cells)))

  with mock.patch.object(DirectUserStateContext, 'commit', record):
    yield held


class StreamTest(unittest.TestCase):
  def _pipeline(self):
    options = PipelineOptions(['--experiments=smart_bucketing'])
    options.view_as(StandardOptions).streaming = True
    return TestPipeline(options=options)

  def _batches(self, stream, lateness=0):
    """Batches with their timestamps, behind a GroupByKey that drops what is
    late."""
    p = self._pipeline()
    batches = (
        p | stream
        | beam.WindowInto(
            window.FixedWindows(10),
            trigger=trigger.AfterWatermark(late=trigger.AfterCount(1)),
            accumulation_mode=trigger.AccumulationMode.DISCARDING,
            allowed_lateness=lateness)
        | beam.BatchElements(
            max_batch_size=4,
            length_fn=len,
            max_batch_duration_secs=_WAIT,
            clock=_Clock(),
            options=BatchingOptions(cost=Cost(5, 1), optimize_for='cost'))
        | beam.ParDo(_Describe())
        | beam.WithKeys(None)
        | beam.GroupByKey()
        | beam.FlatMapTuple(lambda _, batches: batches))
    return p, batches

  def _elements(self, stream, *pairs):
    return stream.add_elements(
        [window.TimestampedValue('x' * length, at) for length, at in pairs])

  def test_the_end_of_the_window(self):
    stream = self._elements(
        TestStream().advance_watermark_to(0), (1, 2), (1, 3), (60, 1))
    stream = stream.advance_watermark_to(9)
    # In steps, since timers of this runner do not hold the watermark.
    stream = self._elements(stream, (2, 9)).advance_watermark_to(10)
    stream = stream.advance_watermark_to(11).advance_watermark_to_infinity()
    p, batches = self._batches(stream)
    assert_that(batches, equal_to([(['x', 'x', 'xx'], 9.0), (['x' * 60], 1.0)]))
    p.run()

  def test_a_full_batch_leaves_at_once_with_its_own_time(self):
    stream = self._elements(
        TestStream().advance_watermark_to(0), (1, 4), *[(1, 2)] * 3)
    p, batches = self._batches(stream.advance_watermark_to_infinity())
    assert_that(batches, equal_to([(['x'] * 4, 4.0)]))
    p.run()

  def test_late_elements_within_the_lateness_leave_as_well(self):
    stream = self._elements(TestStream().advance_watermark_to(0), (1, 2))
    stream = stream.advance_watermark_to(15)
    stream = self._elements(stream, (7, 3)).advance_watermark_to_infinity()
    p, batches = self._batches(stream, lateness=100)
    texts = batches | beam.MapTuple(lambda batch, _: batch)
    assert_that(texts, equal_to([['x'], ['x' * 7]]))
    p.run()

  def test_a_drain(self):
    # It moves the watermark to the end of time, long before the deadline.
    for windows in (window.GlobalWindows(), window.FixedWindows(10)):
      with self.subTest(windows):
        lengths = [1 + 7 * i % 30 for i in range(20)]
        stream = self._elements(
            TestStream().advance_watermark_to(0),
            *[(length, i) for i, length in enumerate(lengths)])
        p = self._pipeline()
        _ = (
            p | stream.advance_watermark_to_infinity()
            | beam.WindowInto(windows)
            | beam.BatchElements(
                max_batch_size=32,
                length_fn=len,
                max_batch_duration_secs=_WAIT,
                clock=_Clock(),
                options=BatchingOptions(optimize_for='cost'))
            | beam.ParDo(_Collect()))
        _Collect.found.clear()
        with _count_state() as held:
          p.run().wait_until_finish()
        found = [len(text) for batch in _Collect.found for text in batch]
        self.assertEqual(sorted(found), sorted(lengths))
        # All waited, and nothing is left.
        self.assertGreaterEqual(max(held), len(lengths))
        self.assertEqual(held[-1], 0)


if __name__ == '__main__':
  unittest.main()
