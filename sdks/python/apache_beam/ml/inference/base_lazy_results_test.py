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

import pickle
import time
import unittest
from unittest import mock

import apache_beam as beam
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.ml.inference import base
from apache_beam.testing.test_pipeline import TestPipeline


class _LazyModelHandler(base.ModelHandler[int, int, None]):
  """Yields each example, and raises in place of a negative one."""
  def __init__(self, error=ValueError('negative'), **kwargs):
    super().__init__(**kwargs)
    self._error = error

  def load_model(self):
    return None

  def run_inference(self, batch, model, inference_args=None):
    for example in batch:
      if example < 0:
        raise self._error
      yield example


class _ManagedModel:
  """Stands for the model manager; records when the model is released."""
  def __init__(self, events):
    self._events = events

  def next_model(self):
    return 'tag of the model'

  def release_model(self, unused_tag, unused_unique_tag):
    self._events.append('released')


def _do_fn(handler):
  do_fn = base._RunInferenceDoFn(handler, time, 'test', False, 'tag')
  do_fn.setup()
  return do_fn


class LazyResultsTest(unittest.TestCase):
  def test_failed_batch_is_counted(self):
    pipeline = TestPipeline(runner='FnApiRunner')
    _, failed = (
        pipeline
        | beam.Create([-1])
        | base.RunInference(_LazyModelHandler()).with_exception_handling())
    _ = failed.failed_inferences | beam.Map(lambda _: None)
    result = pipeline.run()
    counters = result.metrics().query(
        MetricsFilter().with_name('failed_batches_counter'))['counters']
    self.assertEqual([1], [counter.committed for counter in counters])

  def test_out_of_memory_is_noticed(self):
    error = RuntimeError('CUDA out of memory')
    do_fn = _do_fn(_LazyModelHandler(error))
    with self.assertLogs(level='WARNING') as logs:
      with self.assertRaises(RuntimeError):
        do_fn._run_inference([-1], None)
    self.assertIn('Caught CUDA OOM', logs.output[0])

  def test_pickling_error_of_a_shared_model_is_explained(self):
    handler = _LazyModelHandler(pickle.PicklingError('x'))
    do_fn = _do_fn(handler)
    handler._share_across_processes = True
    with self.assertRaisesRegex(TypeError, 'shared across processes'):
      do_fn._run_inference([-1], None)

  def test_model_is_held_until_the_results_are_consumed(self):
    events = []

    class Handler(_LazyModelHandler):
      def run_inference(self, batch, model, inference_args=None):
        for example in batch:
          events.append(example)
          yield example

    do_fn = _do_fn(Handler())
    do_fn.use_model_manager = True
    do_fn._model = _ManagedModel(events)
    # The model itself lives in another process, behind this.
    with mock.patch.object(base.multi_process_shared, 'MultiProcessShared'):
      predictions = do_fn._run_inference([1, 2], None)
    self.assertEqual([1, 2], predictions)
    self.assertEqual([1, 2, 'released'], events)


if __name__ == '__main__':
  unittest.main()
