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
from apache_beam.options.pipeline_options import PipelineOptions

_FLAG = '--experiments=smart_bucketing'


class RunnersTest(unittest.TestCase):
  def test_runners_that_would_lose_elements_are_refused(self):
    for flags, message in (
        (['--runner=PrismRunner'], 'Prism .*prism_disable_sdf_split'),
        (['--runner=SparkRunner', '--streaming'], 'Spark .*no timers'),
        (['--runner=FlinkRunner', '--streaming'],
         'are lost on Flink .*--finish_bundle_before_checkpointing .*'
         '--max_bundle_time_mills=50 .*--checkpointing_interval=.*'
         '--shutdown_sources_after_idle_ms=.*allow_unsafe_smart_bucketing'),
        ([
            '--runner=FlinkRunner',
            '--streaming',
            '--finish_bundle_before_checkpointing=true'
        ],
         'takes no value')):
      p = beam.Pipeline(options=PipelineOptions([_FLAG, *flags]))
      texts = p | beam.Create(['a'])
      with self.assertRaisesRegex(ValueError, f'BatchElements: .*{message}'):
        _ = texts | beam.BatchElements(length_fn=len, max_batch_duration_secs=1)

  def test_prism_that_splits_nothing(self):
    p = beam.Pipeline(
        options=PipelineOptions([
            _FLAG,
            '--runner=PrismRunner',
            '--experiments=prism_disable_sdf_split'
        ]))
    _ = p | beam.Create(['a']) | beam.BatchElements(
        length_fn=len, max_batch_duration_secs=1)

  def test_flink_that_loses_nothing(self):
    for flags in (['--finish_bundle_before_checkpointing', '--streaming'
                   ], ['--experiments=allow_unsafe_smart_bucketing',
                       '--streaming'], []):
      p = beam.Pipeline(
          options=PipelineOptions([_FLAG, '--runner=FlinkRunner', *flags]))
      _ = p | beam.Create(['a']) | beam.BatchElements(
          length_fn=len, max_batch_duration_secs=1)

  def test_an_unknown_job_server_is_warned_of_once(self):
    def build(*flags):
      p = beam.Pipeline(
          options=PipelineOptions(
              [_FLAG, '--runner=PortableRunner', '--streaming', *flags]))
      _ = p | beam.Create(['a']) | 'Unknown' >> beam.BatchElements(
          length_fn=len, max_batch_duration_secs=1)

    with self.assertNoLogs('apache_beam.transforms.batching.flink'):
      build('--finish_bundle_before_checkpointing')
    with self.assertLogs('apache_beam.transforms.batching.flink') as logs:
      build()
      build()
    self.assertEqual(1, len(logs.output))
    self.assertIn('Unknown: batching by length', logs.output[0])


if __name__ == '__main__':
  unittest.main()
