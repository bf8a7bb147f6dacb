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

from apache_beam.testing.inference_conformance import __main__ as conformance
from apache_beam.testing.inference_conformance.bucketing_cases import CASES


def check_on_fn_api_runner(test, cases):
  """Runs cases in batch; returns the state of each by its name."""
  states = {}
  for name, case in cases.items():
    states[name], why = conformance.run_case(case, ['--runner=FnApiRunner'], 60)
    expected = (
        conformance.NOT_APPLICABLE
        if case.needs_streaming else conformance.HOLDS)
    test.assertEqual(expected, states[name], (name, why))
  return states


class BucketingCasesTest(unittest.TestCase):
  def test_all_hold_on_the_fn_api_runner(self):
    states = check_on_fn_api_runner(self, CASES)
    self.assertEqual(2, [*states.values()].count(conformance.NOT_APPLICABLE))

  def test_the_command_runs_them(self):
    self.assertLessEqual(CASES.items(), conformance.CASES.items())
    self.assertEqual(8, len(CASES))


if __name__ == '__main__':
  unittest.main()
