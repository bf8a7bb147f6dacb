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

"""Restrictions that checkpoint themselves, with several workers."""

import unittest

import apache_beam as beam
from apache_beam.io.restriction_trackers import OffsetRange
from apache_beam.io.restriction_trackers import OffsetRestrictionTracker
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.transforms.core import RestrictionProvider

STEPS = 4


class OneStepAtATime(beam.DoFn, RestrictionProvider):
  """Emits (element, step) for each step, each in a bundle of its own."""
  def initial_restriction(self, element):
    return OffsetRange(0, STEPS)

  def create_tracker(self, restriction):
    return OffsetRestrictionTracker(restriction)

  def restriction_size(self, element, restriction):
    return restriction.size()

  def process(self, element, tracker=beam.DoFn.RestrictionParam()):
    step = tracker.current_restriction().start
    if tracker.try_claim(step):
      yield element, step
      tracker.defer_remainder()


class SeveralWorkersTest(unittest.TestCase):
  def test_what_is_left_is_processed(self):
    for workers in (1, 2, 3):
      options = PipelineOptions([
          f'--direct_num_workers={workers}',
          '--direct_running_mode=multi_threading'
      ])
      with beam.Pipeline(fn_runner.FnApiRunner(), options) as p:
        steps = (
            p | beam.Create(range(10))
            | beam.Reshuffle()
            | beam.ParDo(OneStepAtATime()))
        assert_that(
            steps,
            equal_to([(element, step) for element in range(10)
                      for step in range(STEPS)]))


if __name__ == '__main__':
  unittest.main()
