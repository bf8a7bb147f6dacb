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
from apache_beam.io.restriction_trackers import OffsetRange
from apache_beam.io.restriction_trackers import OffsetRestrictionTracker
from apache_beam.runners import sdf_utils
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.runners.worker import bundle_processor
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.utils.timestamp import Duration
from apache_beam.utils.timestamp import Timestamp


class _Clock:
  """The time, as the test sets it."""
  seconds = 1000

  @classmethod
  def now(cls):
    return Timestamp(cls.seconds)


class _Defers(beam.DoFn, RestrictionProvider):
  """Claims all, and defers once; the first two elements take a second each."""
  def initial_restriction(self, element):
    return OffsetRange(0, 2)

  def create_tracker(self, restriction):
    return OffsetRestrictionTracker(restriction)

  def restriction_size(self, element, restriction):
    return restriction.size()

  def process(self, element, tracker=beam.DoFn.RestrictionParam()):
    step = tracker.current_restriction().start
    if tracker.try_claim(step) and not step:
      delay = Duration(element)
      if element < 0:
        delay = _Clock.now() - element
      tracker.defer_remainder(delay)
      _Clock.seconds += 1
    elif step:
      tracker.try_claim(2)


class DelayTest(unittest.TestCase):
  def setUp(self):
    patch = mock.patch.object(Timestamp, 'now', _Clock.now)
    patch.start()
    self.addCleanup(patch.stop)

  def test_the_delay_is_what_is_left_when_it_is_read(self):
    residual = sdf_utils.SplitResultResidual('value', None, Duration(7))
    _Clock.seconds += 2
    self.assertEqual(residual.time_delay(), Duration(5))
    self.assertEqual(residual.time_delay(), Duration(5))
    _Clock.seconds += 9
    self.assertEqual(residual.time_delay(), Duration(0))

  def test_what_was_not_deferred_has_none(self):
    residual = sdf_utils.SplitResultResidual('value', None, None)
    self.assertIsNone(residual.time_delay())
    self.assertEqual(residual, ('value', None, None))

  def test_a_bundle_that_processes_others_after_the_deferral(self):
    delays = []
    application = bundle_processor.BundleProcessor.delayed_bundle_application

    def record(processor, op, residual):
      delayed = application(processor, op, residual)
      delays.append(delayed.requested_time_delay.ToTimedelta().total_seconds())
      return delayed

    with mock.patch.object(bundle_processor.BundleProcessor,
                           'delayed_bundle_application',
                           record):
      with beam.Pipeline(fn_runner.FnApiRunner()) as p:
        # In seconds; what is negative is given as a time.
        _ = (
            p | beam.Create([9, -9, 2, 0], reshuffle=False)
            | beam.ParDo(_Defers()))
    # Four seconds pass in the bundle, one after each of the deferrals.
    self.assertEqual(delays, [5, 6, 0, 0])


if __name__ == '__main__':
  unittest.main()
