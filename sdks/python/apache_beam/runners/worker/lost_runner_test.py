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

"""Tests of threads whose runner goes away."""

import threading
import unittest
from unittest import mock

import grpc

from apache_beam.runners.worker import data_plane
from apache_beam.runners.worker import lost_runner


class _Failed(grpc.RpcError):
  def __init__(self, code):
    super().__init__()
    self._code = code

  def code(self):
    return self._code


# As the errors of grpc's clients are.
grpc.Call.register(_Failed)


class LostRunnerTest(unittest.TestCase):
  def run_thread(self, function):
    """The exceptions that a thread leaves behind."""
    left = []
    with mock.patch.object(threading, 'excepthook', left.append):
      thread = threading.Thread(
          target=lost_runner.logged(function), name='a thread')
      thread.start()
      thread.join()
    return [args.exc_value for args in left]

  def test_a_lost_runner_is_one_line(self):
    def fail():
      raise _Failed(grpc.StatusCode.UNAVAILABLE)

    with self.assertLogs(lost_runner.__name__) as logs:
      self.assertEqual(self.run_thread(fail), [])
    self.assertEqual([record.getMessage() for record in logs.records],
                     ['a thread: the runner has gone (UNAVAILABLE)'])
    self.assertIsNone(logs.records[0].exc_info)

  def test_other_errors_are_raised(self):
    # A server has errors without a code.
    for error in (_Failed(grpc.StatusCode.INTERNAL),
                  grpc.RpcError(),
                  ValueError('wrong')):

      def fail(error=error):
        raise error

      with self.assertNoLogs(lost_runner.__name__):
        self.assertEqual(self.run_thread(fail), [error])

  def test_the_data_plane(self):
    def inputs(error):
      raise error
      yield  # pylint: disable=unreachable

    for error, words in (
        (_Failed(grpc.StatusCode.UNAVAILABLE), 'runner has gone'),
        (_Failed(grpc.StatusCode.INTERNAL), 'Failed to read inputs'),
        (grpc.RpcError(), 'Failed to read inputs')):
      left = []
      channel = data_plane._GrpcDataChannel()
      with mock.patch.object(
          threading, 'excepthook', left.append), self.assertLogs() as logs:
        channel.set_inputs(inputs(error))
        self.assertTrue(channel._reads_finished.wait(30))
        for thread in threading.enumerate():
          if thread.name == 'read_grpc_client_inputs':
            thread.join(30)
      self.assertEqual(len(logs.output), 1)
      self.assertIn(words, logs.output[0])
      self.assertEqual(bool(left), not lost_runner.is_lost(error), left)
      # Whoever waits for data is told, as before.
      self.assertIs(channel._exception, error)


if __name__ == '__main__':
  unittest.main()
