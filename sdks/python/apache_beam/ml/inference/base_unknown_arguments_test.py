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


class _Echo(base.ModelHandler[str, str, None]):
  def load_model(self):
    return None

  def run_inference(self, batch, model, inference_args=None):
    return batch


def _run(**kwargs):
  with TestPipeline(runner='FnApiRunner') as p:
    results = p | beam.Create(['x']) | base.RunInference(_Echo(), **kwargs)
    assert_that(results, equal_to(['x']))


class UnknownArgumentsTest(unittest.TestCase):
  def _warnings(self, **kwargs):
    with self.assertLogs(level='WARNING') as logs:
      _run(**kwargs)
    return [line for line in logs.output if 'unknown argument' in line]

  def test_are_named(self):
    warning, = self._warnings(metrics_name_space='mine')
    self.assertIn(
        "RunInference: unknown argument 'metrics_name_space'. Did you mean "
        "'metrics_namespace'? It has no effect.",
        warning)
    warning, = self._warnings(zzz=1)
    self.assertIn("'zzz'. Leave it out", warning)

  def test_of_the_model_watcher_need_a_pattern(self):
    warning, = self._warnings(interval=60)
    self.assertIn("unknown argument 'interval'", warning)

  def test_known_ones_are_taken(self):
    with self.assertNoLogs('apache_beam.transforms.batching', 'WARNING'):
      _run(metrics_namespace='mine', model_identifier='model')


class KnownArgumentsTest(unittest.TestCase):
  def test_with_the_watcher(self):
    transform = base.RunInference(
        _Echo(),
        watch_model_pattern='/models/*',
        interval=60,
        stop_timestamp=4e9)
    # Expanding is enough: nothing is run.
    pipeline = beam.Pipeline(runner='FnApiRunner')
    with self.assertNoLogs('apache_beam.transforms.batching', 'WARNING'):
      results = pipeline | beam.Create(['x']) | transform
    self.assertIsNotNone(results)


if __name__ == '__main__':
  unittest.main()
