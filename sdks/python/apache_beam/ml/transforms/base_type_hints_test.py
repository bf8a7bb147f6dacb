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

"""Tests of what MLTransform says of its types."""

import tempfile
import unittest

import apache_beam as beam
from apache_beam.ml.transforms import base
from apache_beam.ml.transforms.base_test import FakeEmbeddingsManager
from apache_beam.testing.test_pipeline import TestPipeline


class TypeHintsTest(unittest.TestCase):
  def test_applying_it_logs_no_warning(self):
    with tempfile.TemporaryDirectory() as folder:
      transform = base.MLTransform(
          write_artifact_location=folder).with_transform(
              FakeEmbeddingsManager(columns=['x']))
      with self.assertNoLogs(level='WARNING'):
        result = TestPipeline() | beam.Create([{'x': 'a'}]) | transform
      self.assertIsInstance(result, beam.PCollection)


if __name__ == '__main__':
  unittest.main()
