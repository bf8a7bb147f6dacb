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

"""Tests of the timestamps of batches that are emitted when a window ends."""

import unittest

import apache_beam as beam
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.transforms import window


class _InWindow(beam.DoFn):
  """The size of a batch, and whether its timestamp is in its window."""
  def process(
      self,
      batch,
      timestamp=beam.DoFn.TimestampParam,
      batch_window=beam.DoFn.WindowParam):
    yield len(batch), timestamp <= batch_window.max_timestamp()


class WindowEndTest(unittest.TestCase):
  def _check(self, batch):
    for windowing in (window.FixedWindows(10), window.SlidingWindows(10, 5)):
      with TestPipeline(runner='FnApiRunner') as p:
        batches = (
            p
            | beam.Create([1, 2, 11])
            | beam.Map(lambda n: window.TimestampedValue(n, n))
            | beam.WindowInto(windowing)
            | batch
            | beam.ParDo(_InWindow()))
        if windowing == window.FixedWindows(10):
          assert_that(batches, equal_to([(2, True), (1, True)]))
        else:
          assert_that(
              batches,
              equal_to([(2, True), (2, True), (1, True), (1, True)]),
              label='sliding')

  def test_batch_elements(self):
    self._check(beam.BatchElements(10, 10, max_batch_duration_secs=0))

  def test_batch_elements_by_length(self):
    self._check(
        beam.BatchElements(
            10, 10, max_batch_duration_secs=0, length_fn=lambda n: 1))

  def test_group_into_batches(self):
    self._check(
        beam.Map(lambda n: ('key', n))
        | beam.GroupIntoBatches(10)
        | beam.Values())


if __name__ == '__main__':
  unittest.main()
