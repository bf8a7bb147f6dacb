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

"""Workers that are lost while they have work."""

import os
import signal
import subprocess
import sys
import unittest

from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability.fn_api_runner import worker_handlers

# Each bundle kills the worker that runs it.
_PIPELINE = '''
import os, signal
import apache_beam as beam

def die(unused_element):
  os.kill(os.getpid(), signal.SIGKILL)

if __name__ == '__main__':
  with beam.Pipeline(argv=[
      '--runner=FnApiRunner',
      '--direct_num_workers=2',
      '--direct_running_mode=multi_processing',
      '--pickle_library=cloudpickle']) as p:
    _ = p | beam.Create([1]) | beam.Map(die)
'''
_HANGS_SECS = 120


def _request():
  return beam_fn_api_pb2.InstructionRequest()


def _lost_connection():
  """The responses of a worker end in an error, as gRPC raises it."""
  def responses():
    raise ConnectionResetError('reset by peer')
    yield  # pylint: disable=unreachable

  connection = worker_handlers.ControlConnection()
  pending = connection.push(_request())
  connection.set_input(responses())
  return connection, pending


class WorkerLostTest(unittest.TestCase):
  def test_what_is_pending_fails(self):
    _, pending = _lost_connection()
    with self.assertRaisesRegex(RuntimeError, 'worker is lost.*reset by peer'):
      pending.get(_HANGS_SECS)
    self.assertTrue(pending.is_done())

  def test_what_is_sent_later_fails(self):
    connection, pending = _lost_connection()
    with self.assertRaises(RuntimeError):
      pending.get(_HANGS_SECS)
    with self.assertRaisesRegex(RuntimeError, 'worker is lost'):
      connection.push(_request()).get(_HANGS_SECS)

  def test_a_worker_that_connects_after_the_end_ends(self):
    connection = worker_handlers.ControlConnection()
    connection.close()
    self.assertIs(
        connection.get_req(),
        worker_handlers.BeamFnControlServicer._DONE_MARKER)

  def _fails(self, program):
    """The output of a program that fails."""
    with subprocess.Popen([sys.executable, '-c', program],
                          stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT,
                          text=True,
                          start_new_session=True) as job:
      try:
        output, _ = job.communicate(timeout=_HANGS_SECS)
      except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        raise
    self.assertNotEqual(job.returncode, 0)
    return output

  def test_a_pipeline_fails_whose_worker_is_killed(self):
    self.assertIn('An SDK worker is lost', self._fails(_PIPELINE))

  def test_a_pipeline_fails_whose_worker_does_not_start(self):
    no_python = "import os\nos.environ['PYTHONHOME'] = '/no/such/folder'\n"
    self.assertIn(
        'An SDK worker is lost: Worker subprocess exited with return code 1.',
        self._fails(no_python + _PIPELINE))


if __name__ == '__main__':
  unittest.main()
