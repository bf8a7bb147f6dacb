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

"""Tests of what RunInference refuses with iterative."""

import unittest

import apache_beam as beam
from apache_beam.ml.inference.base import KeyedModelHandler
from apache_beam.ml.inference.base import KeyModelMapping
from apache_beam.ml.inference.base import ModelHandler
from apache_beam.ml.inference.base import RunInference
from apache_beam.ml.inference.iterative.engines.generator import GeneratorModelHandler
from apache_beam.ml.inference.iterative.engines.generator_test import letters
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.ml.inference.iterative.run import EXPERIMENT
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.batching.options import BatchingOptions


class OneShotHandler(ModelHandler):
  def load_model(self):
    return None

  def run_inference(self, batch, model, inference_args=None):
    return batch


def handler(**kwargs):
  return GeneratorModelHandler(lambda: None, letters, **kwargs)


def build(model_handler, *experiments, exceptions=None, **kwargs):
  """Builds a pipeline that is not run."""
  flags = [f'--experiments={name}' for name in experiments]
  p = beam.Pipeline(options=PipelineOptions(flags))
  transform = RunInference(
      model_handler, iterative=IterativeOptions(), **kwargs)
  if exceptions is not None:
    transform = transform.with_exception_handling(**exceptions)
  return p | beam.Create(['a']) | 'Infer' >> transform


class RefusedTest(unittest.TestCase):
  def assert_refused(self, message, *args, **kwargs):
    with self.assertRaisesRegex(ValueError, f'Infer: .*{message}'):
      build(*args, EXPERIMENT, **kwargs)

  def test_what_is_no_options(self):
    for value in (True, False, {}, 'durable', IterativeOptions):
      with self.assertRaisesRegex(TypeError,
                                  r'iterative=.*IterativeOptions\(\)'):
        RunInference(handler(), iterative=value)

  def test_idle_secs(self):
    for value, error in (('9', TypeError), (True, TypeError), (None, TypeError),
                         (-1, ValueError), (float('nan'), ValueError)):
      with self.assertRaisesRegex(error, r'session_idle_secs='):
        IterativeOptions(session_idle_secs=value)
    IterativeOptions(session_idle_secs=0)

  def test_without_the_flag(self):
    with self.assertRaisesRegex(ValueError,
                                'needs --experiments=iterative_inference'):
      build(handler())

  def test_handlers_of_whole_results(self):
    self.assert_refused(
        'OneShotHandler makes whole results only.*GeneratorModelHandler',
        OneShotHandler())

  def test_batches_of_the_user(self):
    self.assert_refused('with_no_batching', handler().with_no_batching())

  def test_several_models(self):
    models = KeyedModelHandler([KeyModelMapping(['k'], handler())])
    self.assert_refused('takes one model', models)

  def test_what_is_written_for_whole_results(self):
    self.assert_refused(
        'a postprocessing function .*FoldToPredictionResult',
        handler().with_postprocess_fn(str))
    self.assert_refused(
        'monitoring_transform .*FoldToPredictionResult',
        handler(),
        monitoring_transform=beam.Map(print))

  def test_models_that_change(self):
    self.assert_refused(
        'watch_model_pattern cannot', handler(), watch_model_pattern='/m/*')
    self.assert_refused(
        'use_model_manager cannot', handler(), use_model_manager=True)

  def test_exception_handling_that_inputs_of_their_own_cannot_have(self):
    self.assert_refused(
        r'use_subprocess\) cannot',
        handler(),
        exceptions={'use_subprocess': True})
    self.assert_refused(
        r'threshold\) cannot', handler(), exceptions={'threshold': 0.1})

  def test_batching_options_of_a_model_that_does_not_pad(self):
    with self.assertRaisesRegex(ValueError, 'does not pad its batches'):
      build(
          handler(pads=False),
          EXPERIMENT,
          'smart_bucketing',
          batching_options=BatchingOptions())

  def test_arguments_that_sessions_do_not_take(self):
    class Picky(GeneratorModelHandler):
      def check_session_args(self, inference_args):
        raise ValueError(f'inference_args: {inference_args} is too much.')

    self.assert_refused(
        r"inference_args: \{'n': 2\} is too much",
        Picky(lambda: None, letters),
        inference_args={'n': 2})

  def test_unknown_arguments(self):
    with self.assertRaisesRegex(TypeError, "Did you mean 'inference_args'"):
      build(handler(), EXPERIMENT, inference_arg={})


class TimeoutTest(unittest.TestCase):
  def test_that_of_exception_handling_bounds_an_input(self):
    results, failed = build(handler(), EXPERIMENT, exceptions={'timeout': 7})
    do_fn = results.producer.transform.fn
    self.assertEqual(do_fn._options.request_timeout_secs, 7)
    self.assertIsNotNone(failed.failed_inferences)


if __name__ == '__main__':
  unittest.main()
