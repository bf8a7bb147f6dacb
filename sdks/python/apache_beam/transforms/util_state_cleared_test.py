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

import unittest
from unittest import mock

import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner import worker_handlers
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.transforms import window
from apache_beam.transforms.util import BatchElements

_WINDOWS = 20


class StateClearedTest(unittest.TestCase):
  def _cells_left(self, elements_per_window):
    """How many user state cells the runner holds when a pipeline has ended."""
    servicers = []
    make = worker_handlers.StateServicer.__init__

    def record(servicer):
      make(servicer)
      servicers.append(servicer)

    times = [float(w) for w in range(_WINDOWS)] * elements_per_window
    with mock.patch.object(worker_handlers.StateServicer, '__init__', record):
      with TestPipeline(runner='FnApiRunner') as p:
        sizes = (
            p
            | beam.Create(times)
            | beam.Map(lambda t: window.TimestampedValue(t, t))
            | beam.WindowInto(window.FixedWindows(1))
            | BatchElements(2, 2, max_batch_duration_secs=60)
            | beam.Map(len)
            | beam.CombineGlobally(sum).without_defaults())
        assert_that(sizes, equal_to([elements_per_window] * _WINDOWS))
    self.assertTrue(servicers)
    return sum(
        bool(list(cell)) for servicer in servicers
        for cell in servicer._state.values())

  def test_nothing_is_left_of_windows_that_are_over(self):
    # An even number leaves an empty buffer to the window's timer.
    for elements_per_window in (1, 2, 3):
      with self.subTest(elements_per_window=elements_per_window):
        self.assertEqual(0, self._cells_left(elements_per_window))


if __name__ == '__main__':
  unittest.main()
