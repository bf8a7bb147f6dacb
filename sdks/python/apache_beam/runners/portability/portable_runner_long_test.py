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

"""Pipelines that take longer than a request to the job server may."""

import time
import unittest

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability import local_job_service
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.runners.runner import PipelineState

# Enough for requests on a busy machine.
_REQUEST_SECS = 8


class LongPipelineTest(unittest.TestCase):
  def test_the_timeout_of_requests_does_not_end_the_pipeline(self):
    job_server = local_job_service.LocalJobServicer()
    port = job_server.start_grpc_server()
    self.addCleanup(job_server.stop)
    options = PipelineOptions([
        f'--job_endpoint=localhost:{port}',
        '--environment_type=LOOPBACK',
        f'--job_server_timeout={_REQUEST_SECS}'
    ])
    pipeline = beam.Pipeline(PortableRunner(), options)
    _ = (pipeline | beam.Create([2 * _REQUEST_SECS]) | beam.Map(time.sleep))
    self.assertEqual(PipelineState.DONE, pipeline.run().wait_until_finish())


if __name__ == '__main__':
  unittest.main()
