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

"""Tests of the waits between attempts."""

import datetime
import email.utils
import unittest

from hypothesis import given
from hypothesis import strategies as st

from apache_beam.ml.inference.iterative.engines.openai.backoff import Backoff
from apache_beam.ml.inference.iterative.engines.openai.backoff import retry_after_secs


class BackoffTest(unittest.TestCase):
  @given(
      st.integers(1, 40),
      st.floats(0, 1, exclude_max=True),
      st.none() | st.floats(0, 200))
  def test_waits_are_bounded(self, failures, random, retry_after):
    backoff = Backoff(max_retries=30)
    wait = backoff.wait_secs(failures, random, retry_after)
    if failures > 30 or retry_after is not None and retry_after > 120:
      self.assertIsNone(wait)
    else:
      self.assertLessEqual(wait, max(30, 1.1 * (retry_after or 0)))
      self.assertGreaterEqual(wait, max(0.25, retry_after or 0))

  def test_retry_after_is_seconds_or_a_date(self):
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    date = email.utils.format_datetime(
        now + datetime.timedelta(seconds=9), usegmt=True)
    for value, secs in ((None, None), ('3', 3), ('0.5', 0.5), ('-4', 0),
                        ('soon', None), ('nan', None), ('inf', None),
                        (date, 9)):
      with self.subTest(value=value):
        headers = {} if value is None else {'retry-after': value}
        self.assertEqual(secs, retry_after_secs(headers, now.timestamp()))
    both = {'retry-after': '9', 'retry-after-ms': '250'}
    self.assertEqual(0.25, retry_after_secs(both, 0))
    both['retry-after-ms'] = 'soon'
    self.assertEqual(9, retry_after_secs(both, 0))


if __name__ == '__main__':
  unittest.main()
