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

"""Timers behind restrictions that checkpoint themselves."""

import unittest

import apache_beam as beam
from apache_beam import coders
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.runners.portability.fn_api_runner.fn_runner_workers_test import STEPS
from apache_beam.runners.portability.fn_api_runner.fn_runner_workers_test import OneStepAtATime
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.transforms import userstate
from apache_beam.transforms import window
from apache_beam.transforms.timeutil import TimeDomain


class _AtTheEnd(beam.DoFn):
  """Emits all values of a key when its window ends."""
  VALUES = userstate.BagStateSpec('values', coders.VarIntCoder())
  END = userstate.TimerSpec('end', TimeDomain.WATERMARK)

  def process(
      self,
      element,
      window=beam.DoFn.WindowParam,
      values=beam.DoFn.StateParam(VALUES),
      end=beam.DoFn.TimerParam(END)):
    values.add(element[1])
    end.set(window.max_timestamp())

  @userstate.on_timer(END)
  def on_end(self, key=beam.DoFn.KeyParam, values=beam.DoFn.StateParam(VALUES)):
    found = sorted(values.read())
    values.clear()
    if found:
      yield key, found


class TimersTest(unittest.TestCase):
  def test_event_time_timers_fire_after_what_is_deferred(self):
    for window_fn in (window.GlobalWindows(), window.FixedWindows(10)):
      with self.subTest(window_fn), beam.Pipeline(fn_runner.FnApiRunner()) as p:
        values = (
            p | beam.Create(['a', 'b'])
            | beam.Map(lambda element: window.TimestampedValue(element, 3))
            | beam.WindowInto(window_fn)
            | beam.ParDo(OneStepAtATime())
            | beam.ParDo(_AtTheEnd()))
        assert_that(
            values,
            equal_to([(element, list(range(STEPS))) for element in 'ab']))


if __name__ == '__main__':
  unittest.main()
