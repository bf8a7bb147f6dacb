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

import apache_beam as beam
from apache_beam.ml.inference.base import ModelHandler
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.transforms.util import BatchElements


class BatchingParametersTest(unittest.TestCase):
  def test_boundaries_as_a_tuple(self):
    with TestPipeline(runner='FnApiRunner') as p:
      batches = (
          p
          | beam.Create(['a', 'bb', 'c' * 30, 'd' * 40])
          | BatchElements(
              2,
              2,
              max_batch_duration_secs=60,
              length_fn=len,
              bucket_boundaries=(10, 50))
          | beam.Map(lambda batch: sorted(map(len, batch))))
      assert_that(batches, equal_to([[1, 2], [30, 40]]))

  def test_transform_refuses_when_it_is_made(self):
    for kwargs, message in (
        ({'bucket_boundaries': [1, 1], 'length_fn': len}, 'bucket_boundaries'),
        ({'min_batch_size': 0}, 'min_batch_size=0'),
        ({'min_batch_size': -2, 'max_batch_size': -1}, 'min_batch_size=-2'),
        ({'max_batch_duration_secs': -1}, 'max_batch_duration_secs=-1')):
      with self.subTest(kwargs=kwargs):
        with self.assertRaisesRegex(ValueError, f'BatchElements: {message}'):
          BatchElements(**kwargs)

  def test_handler_refuses_when_it_is_made(self):
    for kwargs in ({'batch_bucket_boundaries': [2, 1], 'batch_length_fn': len},
                   {'max_batch_size': 0}, {'max_batch_duration_secs': -1}):
      with self.subTest(kwargs=kwargs):
        with self.assertRaisesRegex(ValueError, 'ModelHandler: '):
          ModelHandler(**kwargs)

  def test_functions_with_a_wrong_result(self):
    for name, kwargs in (
        ('length_fn', {'length_fn': lambda _: None,
                       'max_batch_duration_secs': 1}),
        ('element_size_fn', {'element_size_fn': lambda _: float('nan')})):
      with self.subTest(name=name):
        with self.assertRaisesRegex(
            Exception, f"BatchElements: {name} returned .* element 'abc'"):
          with TestPipeline(runner='FnApiRunner') as p:
            _ = p | beam.Create(['abc']) | BatchElements(**kwargs)


if __name__ == '__main__':
  unittest.main()
