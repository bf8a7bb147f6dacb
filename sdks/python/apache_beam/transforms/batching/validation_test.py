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

import math
import unittest

from hypothesis import given
from hypothesis import strategies as st

from apache_beam.transforms.batching.validation import check_parameters


class CheckParametersTest(unittest.TestCase):
  def _refused(self, error, message, **parameters):
    with self.subTest(parameters=parameters):
      with self.assertRaisesRegex(error, f'Owner: .*{message}'):
        check_parameters('Owner', parameters)

  def test_sizes_and_durations(self):
    for name in ('min_batch_size', 'max_batch_size'):
      for value in (0, -1, math.nan):
        self._refused(ValueError, f'{name}=.*at least 1', **{name: value})
      for value in ('8', True, [1]):
        self._refused(TypeError, f'{name}=.*a number', **{name: value})
    for value in (-0.1, math.nan):
      self._refused(
          ValueError,
          'max_batch_duration_secs=.*at least 0',
          max_batch_duration_secs=value)

  def test_no_end_of_the_wait(self):
    self._refused(
        ValueError,
        'max_batch_duration_secs=inf must be finite. With 0',
        max_batch_duration_secs=math.inf)

  def test_minimum_above_maximum(self):
    self._refused(
        ValueError,
        'min_batch_size=3 must not be greater than max_batch_size=2',
        min_batch_size=3,
        max_batch_size=2)

  def test_boundaries(self):
    for value in ([2, 1], [1, 1], (3, 3, 4), []):
      self._refused(ValueError, 'ascending', bucket_boundaries=value)
    for value in ([0, 1], [-1], [1, None], ['1'], [math.inf], [math.nan]):
      self._refused(ValueError, 'positive number', bucket_boundaries=value)
    for value in ('16', 16, {16}):
      self._refused(TypeError, 'a list or a tuple', bucket_boundaries=value)

  @given(st.sets(st.integers(1), min_size=1).map(sorted))
  def test_valid_parameters(self, boundaries):
    for sequence in (list, tuple):
      check_parameters(
          'Owner',
          {
              'bucket_boundaries': sequence(boundaries),
              'min_batch_size': 1,
              'max_batch_size': None,
              'max_batch_duration_secs': 0,
              'unknown': object(),
          })


if __name__ == '__main__':
  unittest.main()
