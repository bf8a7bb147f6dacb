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
from apache_beam.ml.inference import base
from apache_beam.options.pipeline_options import PipelineOptions

_FLAG = '--experiments=smart_bucketing'


def _unpicklable():
  held = (n for n in range(3))  # A generator cannot be pickled.
  return lambda element: len(element) + next(held)


class PicklableTest(unittest.TestCase):
  def _check(self, transform, message):
    pipeline = beam.Pipeline(options=PipelineOptions([_FLAG]))
    with self.assertRaisesRegex(TypeError, message):
      _ = pipeline | beam.Create(['a']) | transform

  def test_length_fn(self):
    self._check(
        'Group' >> beam.BatchElements(length_fn=_unpicklable()),
        'Group: length_fn=.* cannot be pickled')

  def test_element_size_fn(self):
    self._check(
        beam.BatchElements(length_fn=len, element_size_fn=_unpicklable()),
        'BatchElements: element_size_fn=.* cannot be pickled')

  def test_batch_length_fn_of_a_model_handler(self):
    handler = base.ModelHandler(batch_length_fn=_unpicklable())
    self._check(base.RunInference(handler), 'length_fn=.* cannot be pickled')
    self._check(
        base.RunInference(handler).with_exception_handling(),
        'RunInference: length_fn=.* cannot be pickled')


if __name__ == '__main__':
  unittest.main()
