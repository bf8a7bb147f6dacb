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

import unittest

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.pipeline_options import StandardOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.test_stream import TestStream
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.transforms import trigger
from apache_beam.transforms import window
from apache_beam.transforms.batching.least_cost import Cost
from apache_beam.transforms.batching.options import BatchingOptions

_WAIT = 100


class _Clock:
  """Stands still, so that real time is what the stream says."""
  def __call__(self):
    return 0.0


class _Describe(beam.DoFn):
  def process(self, batch, timestamp=beam.DoFn.TimestampParam):
    yield batch, float(timestamp)


class StreamTest(unittest.TestCase):
  def _batches(self, stream, lateness=0):
    """Batches with their timestamps, behind a GroupByKey that drops what is
    late."""
    options = PipelineOptions(['--experiments=smart_bucketing'])
    options.view_as(StandardOptions).streaming = True
    p = TestPipeline(options=options)
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
            options=BatchingOptions(cost=Cost(5, 1)))
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


if __name__ == '__main__':
  unittest.main()
