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
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to

_FLAG = '--experiments=smart_bucketing'


class _Echo(base.ModelHandler[str, str, None]):
  def load_model(self):
    return None

  def run_inference(self, batch, model, inference_args=None):
    return batch


def _run(*flags, **kwargs):
  options = PipelineOptions(list(flags))
  with TestPipeline(runner='FnApiRunner', options=options) as p:
    results = p | beam.Create(['x']) | base.RunInference(_Echo(), **kwargs)
    assert_that(results, equal_to(['x']))


class UnknownArgumentsTest(unittest.TestCase):
  def test_are_refused_with_the_flag(self):
    with self.assertRaisesRegex(
        TypeError,
        "RunInference: unknown argument 'batching_option'. Did you "
        "mean 'batching_options'"):
      _run(_FLAG, batching_option=1)
    with self.assertRaisesRegex(TypeError, "'zzz'. Leave it out"):
      _run(_FLAG, zzz=1)

  def test_of_the_model_watcher_need_a_pattern(self):
    with self.assertRaisesRegex(TypeError, "unknown argument 'interval'"):
      _run(_FLAG, interval=60)

  def test_vanish_without_the_flag_as_ever(self):
    _run(batching_option=1, interval=60)

  def test_known_ones_are_taken(self):
    _run(_FLAG, metrics_namespace='mine', model_identifier='model')


class KnownArgumentsTest(unittest.TestCase):
  def test_with_the_watcher(self):
    transform = base.RunInference(
        _Echo(),
        watch_model_pattern='/models/*',
        interval=60,
        stop_timestamp=4e9)
    options = PipelineOptions([_FLAG])
    # Expanding is enough: nothing is run.
    pipeline = beam.Pipeline(runner='FnApiRunner', options=options)
    results = pipeline | beam.Create(['x']) | transform
    self.assertIsNotNone(results)


if __name__ == '__main__':
  unittest.main()
