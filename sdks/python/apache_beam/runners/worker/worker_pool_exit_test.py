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

"""How workers in threads of the process end with it."""

import subprocess
import sys
import unittest

# The worker still tears down when the main thread is done.
_PIPELINE = '''
import time
import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.runners.worker import worker_pool_main
from apache_beam.transforms import environments

class Model(beam.DoFn):
  def process(self, element):
    yield element

  def teardown(self):
    time.sleep(1)
    print('torn down', flush=True)

if __name__ == '__main__':
  address, server = (
      worker_pool_main.BeamFnExternalWorkerPoolServicer.start())
  runner = fn_runner.FnApiRunner(
      default_environment=environments.ExternalEnvironment(address))
  with beam.Pipeline(runner, argv=['--pickle_library=cloudpickle']) as p:
    _ = p | beam.Create([1]) | beam.ParDo(Model())
  print('pipeline done', flush=True)
'''


class WorkerPoolExitTest(unittest.TestCase):
  def test_the_process_ends_after_the_teardown_of_workers(self):
    done = subprocess.run([sys.executable, '-c', _PIPELINE],
                          stdout=subprocess.PIPE,
                          text=True,
                          timeout=120,
                          check=True)
    self.assertEqual(done.stdout.splitlines(), ['pipeline done', 'torn down'])


if __name__ == '__main__':
  unittest.main()
