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
import pickle
import unittest

from apache_beam.transforms.batching.options import BatchingOptions


class BatchingOptionsTest(unittest.TestCase):
  def test_defaults_are_valid_and_survive_pickling(self):
    options = BatchingOptions()
    self.assertIsNone(options.max_padded_size)
    self.assertEqual(options, pickle.loads(pickle.dumps(options)))

  def test_values_that_are_not_positive(self):
    for value in (0, -1):
      with self.assertRaisesRegex(ValueError, r'max_padded_size=.*positive'):
        BatchingOptions(max_padded_size=value)

  def test_values_that_are_no_int(self):
    for value in (1.5, True, '8'):
      with self.assertRaisesRegex(TypeError, r'max_padded_size=.*an int'):
        BatchingOptions(max_padded_size=value)

  def test_numbers(self):
    for name, values, message in (
        ('max_buffered_secs', ('1', True), 'a number'),
        ('metrics_namespace', (None, 3), 'a str')):
      for value in values:
        with self.assertRaisesRegex(TypeError, f'{name}=.*must be {message}'):
          BatchingOptions(**{name: value})
    for value in (0, math.nan):
      with self.assertRaisesRegex(ValueError, 'max_buffered_secs='):
        BatchingOptions(max_buffered_secs=value)
    self.assertIsNone(BatchingOptions(max_buffered_secs=None).max_buffered_secs)

  def test_buffer_must_be_bounded(self):
    for name in ('max_buffered_elements', 'max_buffered_bytes'):
      with self.assertRaisesRegex(TypeError, f'{name}=None'):
        BatchingOptions(**{name: None})

  def test_choices(self):
    for name, values in (('oversized', ('alone', 'refuse')),
                         ('optimize_for', ('latency', 'cost'))):
      for value in values:
        options = BatchingOptions(**{name: value})
        self.assertEqual(value, getattr(options, name))
      for value in ('drop', None, 0.5):
        with self.assertRaisesRegex(
            ValueError, f"{name}={value!r}.*{' or '.join(map(repr, values))}"):
          BatchingOptions(**{name: value})

  def test_cost_that_is_none(self):
    with self.assertRaisesRegex(TypeError, r'cost=200.*Cost\(fixed=200'):
      BatchingOptions(cost=200)


if __name__ == '__main__':
  unittest.main()
