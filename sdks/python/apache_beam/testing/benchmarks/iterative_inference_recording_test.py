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

import tempfile
import time
import unittest
from pathlib import Path

from apache_beam.ml.inference.iterative.engines.generator import GeneratorModelHandler
from apache_beam.ml.inference.iterative.session import Request
from apache_beam.testing.benchmarks import iterative_inference_recording as recording
from apache_beam.testing.inference.clock_session import ClockModelHandler


class RecordingTest(unittest.TestCase):
  def setUp(self):
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = folder.name

  def _open(self, handler, prompts=('a', 'b')):
    return recording.RecordingModelHandler(
        handler, self.folder, 2, prompts, {
            'steps': 3
        }).open_session()

  def _notes(self):
    return list(Path(self.folder).glob('submitted-*'))

  def test_notes_the_first_request_that_is_no_warm_up(self):
    asked = []

    def words(batch, model, args):
      asked.append((list(batch), args))
      yield from enumerate(batch)

    session = self._open(GeneratorModelHandler(lambda: None, words))
    self.assertEqual(asked, [(['a', 'b'], {'steps': 3})])
    self.assertEqual(self._notes(), [])
    before = time.time()
    for request_id in ('1', '2'):
      session.submit(Request(request_id, 'c'))
    self.assertEqual(len(self._notes()), 1)
    started, memory = recording.first_submission(self.folder)
    self.assertTrue(before <= started <= time.time())
    self.assertGreater(memory, 2**20)
    recording.close_sessions()
    self.assertFalse(session.is_alive)

  def test_a_model_that_fails_to_warm_up(self):
    def fail(batch, model, args):
      raise ValueError('no memory')

    with self.assertRaisesRegex(RuntimeError, 'warm up: engine.*no memory'):
      self._open(GeneratorModelHandler(lambda: None, fail))

  def test_a_client_polls_all(self):
    session = self._open(ClockModelHandler(tokens=4, rate=100.0), ())
    parts = list(
        recording.poll_all(session, [Request(i, i) for i in ('a', 'b')]))
    for name in ('a', 'b'):
      mine = [part for request_id, part in parts if request_id == name]
      self.assertEqual([p.index for p in mine], list(range(len(mine))))
      self.assertEqual([p.is_last for p in mine],
                       [False] * (len(mine) - 1) + [True])
      self.assertEqual(sum(part.tokens for part in mine), 4)


if __name__ == '__main__':
  unittest.main()
