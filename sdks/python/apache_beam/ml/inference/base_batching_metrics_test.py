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
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.transforms.batching.metrics import metrics_table


class _Echo(base.ModelHandler[str, str, None]):
  def load_model(self):
    return None

  def run_inference(self, batch, model, inference_args=None):
    return batch


def _run(**kwargs):
  p = TestPipeline(
      runner='FnApiRunner',
      options=PipelineOptions(['--experiments=smart_bucketing']))
  handler = _Echo(max_batch_size=2, batch_length_fn=len)
  _ = p | beam.Create(['x', 'xxx']) | base.RunInference(handler, **kwargs)
  result = p.run()
  return result, {
      metric.key.metric.namespace
      for metric in result.metrics().query()['counters']
      if metric.key.metric.name in ('padded_size', 'num_inferences')
  }


class RunInferenceBatchingMetricsTest(unittest.TestCase):
  def test_are_where_those_of_the_inference_are(self):
    result, namespaces = _run()
    self.assertEqual({_Echo().get_metrics_namespace()}, namespaces)
    self.assertRegex(metrics_table(result), r'\| elements +\| +2 \|')

  def test_are_in_the_namespace_of_the_transform(self):
    self.assertEqual({'mine'}, _run(metrics_namespace='mine')[1])


if __name__ == '__main__':
  unittest.main()
