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
from apache_beam.ml.inference.iterative.durable.do_fn_test import PROMPTS
from apache_beam.ml.inference.iterative.durable.do_fn_test import infer
from apache_beam.ml.inference.iterative.durable.do_fn_test import pipeline
from apache_beam.ml.inference.iterative.durable.runners import check_runner
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.direct.direct_runner import SwitchingDirectRunner
from apache_beam.runners.portability.flink_runner import FlinkRunner
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.runners.portability.prism_runner import PrismRunner
from apache_beam.runners.runner import PipelineRunner


class RefusedTest(unittest.TestCase):
  def test_a_timeout_of_calls(self):
    for kwargs, words in (
        ({'timeout': 5}, 'timeout.*request_timeout_secs'),
        ({'use_subprocess': True}, 'use_subprocess'),
        ({'threshold': 0.5}, 'threshold')):
      with self.assertRaisesRegex(ValueError, words):
        p = pipeline()
        _ = p | beam.Create(PROMPTS) | infer().with_exception_handling(**kwargs)

  def test_options_that_are_for_the_other_mode(self):
    for kwargs in ({'on_drain': 'truncate'}, {'max_restriction_bytes': 9}):
      with self.assertRaisesRegex(ValueError, f'{[*kwargs][0]}.*durable'):
        IterativeOptions(**kwargs)
    with self.assertRaisesRegex(ValueError, "on_drain='stop'"):
      IterativeOptions(mode='durable', on_drain='stop')
    with self.assertRaisesRegex(ValueError, 'max_restriction_bytes=0'):
      IterativeOptions(mode='durable', max_restriction_bytes=0)

  def test_runners(self):
    flags = ['--finish_bundle_before_checkpointing']
    unsafe = ['--experiments=allow_unsafe_durable_inference']
    for runner, options, error in (
        (BundleBasedDirectRunner(), [], 'PrismRunner'),
        (FlinkRunner(), [], '--finish_bundle_before_checkpointing'),
        (FlinkRunner(), [flags[0] + '=false'], '--finish_bundle_before'),
        (FlinkRunner(), flags, None),
        # The job server calls that an error.
        (FlinkRunner(), [flags[0] + '=true'], 'takes no value'),
        (PortableRunner(), [flags[0] + '=true'], 'takes no value'),
        (FlinkRunner(), [*flags, '--other=1'], None),
        (FlinkRunner(), unsafe, None)):
      if error is None:
        check_runner('Infer', runner, PipelineOptions(options))
        continue
      with self.assertRaisesRegex(ValueError, f'Infer: .*{error}'):
        check_runner('Infer', runner, PipelineOptions(options))

  def test_warns_of_runners_that_were_not_tried(self):
    class CloudRunner(PipelineRunner):
      pass

    for runner in (PortableRunner(), CloudRunner()):
      with self.assertLogs(level='WARNING') as logs:
        check_runner('Infer', runner, PipelineOptions([]))
      self.assertRegex(logs.output[0], f'Infer: .*{type(runner).__name__}')
      # Once, and not where the option of Flink is given.
      with self.assertNoLogs(level='WARNING'):
        check_runner('Infer', runner, PipelineOptions([]))
        check_runner(
            'Other',
            runner,
            PipelineOptions(['--finish_bundle_before_checkpointing']))
    for runner in (PrismRunner(),
                   fn_runner.FnApiRunner(),
                   SwitchingDirectRunner()):
      with self.assertNoLogs(level='WARNING'):
        check_runner('Infer', runner, PipelineOptions([]))

  def test_the_wrong_runner_is_refused_at_once(self):
    with self.assertRaisesRegex(ValueError, 'Infer: .*PrismRunner'):
      _ = pipeline(BundleBasedDirectRunner()) | beam.Create(['red']) | infer()


if __name__ == '__main__':
  unittest.main()
