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
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.typehints.decorators import TypeCheckError


class _Upper(base.ModelHandler[str, str, None]):
  def load_model(self):
    return None

  def run_inference(self, batch, model, inference_args=None):
    return [text.upper() for text in batch]


class OutputTypeTest(unittest.TestCase):
  def _upper(self, output_type):
    handler = _Upper(max_batch_size=1)
    return base.RunInference(handler).with_output_types(output_type)

  def test_is_that_of_the_results_and_not_of_what_failed(self):
    with TestPipeline(runner='FnApiRunner') as p:
      results, other = (
          p | beam.Create(['a', None])
          | self._upper(str).with_exception_handling())
      self.assertEqual(results.element_type, str)
      assert_that(results, equal_to(['A']))
      assert_that(
          other.failed_inferences | beam.Map(lambda failed: failed[0]),
          equal_to([[None]]),
          label='failed')

  def test_results_of_another_type(self):
    def same(text: str) -> str:
      return text

    handler = _Upper().with_postprocess_fn(same)
    wrong = base.RunInference(handler).with_output_types(int)
    for transform in (wrong, wrong.with_exception_handling()):
      with self.assertRaisesRegex(TypeCheckError,
                                  'RunInference: expected.*int'):
        _ = TestPipeline() | beam.Create(['a']) | transform


if __name__ == '__main__':
  unittest.main()
