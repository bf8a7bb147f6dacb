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

"""Tests of model handlers whose model is a session."""

import unittest

from apache_beam.ml.inference.iterative.engines.mailboxes import BufferedSession
from apache_beam.ml.inference.iterative.handler import SessionModelHandler
from apache_beam.ml.inference.iterative.session import Delta


class _Spelling(BufferedSession):
  """Makes a letter of each prompt in turn; all are there when it is asked."""
  def __init__(self):
    super().__init__()
    self.stopped = []

  def _start(self, request, resume_from):
    for letter in request.prompt:
      if letter == '!':
        self._push(
            request.request_id, Delta(finish_reason='error', error='engine: !'))
        return
      self._push(request.request_id, Delta(letter, tokens=1))
    self._push(request.request_id, Delta(finish_reason='stop'))

  def _stop(self, request_id):
    self.stopped.append(request_id)


class _Handler(SessionModelHandler):
  def open_session(self):
    return _Spelling()

  def session_model_id(self):
    return 'speller'


class SessionModelHandlerTest(unittest.TestCase):
  def test_runs_a_batch_to_its_end(self):
    handler = _Handler()
    session = handler.load_model()
    results = list(handler.run_inference(['abc', '', 'de'], session))
    self.assertEqual(['abc', '', 'de'], [r.example for r in results])
    self.assertEqual(['abc', '', 'de'], [r.inference.text for r in results])
    self.assertEqual({'speller'}, {r.model_id for r in results})
    self.assertEqual({'stop'}, {r.inference.finish_reason for r in results})

  def test_one_that_fails_fails_the_batch_and_leaves_nothing(self):
    session = _Handler().load_model()
    with self.assertRaisesRegex(RuntimeError, 'engine: !'):
      list(_Handler().run_inference(['ab', 'c!', 'de'], session))
    # Each id is free again.
    self.assertEqual(
        2, len(list(_Handler().run_inference(['ab', 'c'], session))))

  def test_a_session_is_not_shared_by_processes(self):
    for kwargs in ({'large_model': True}, {'model_copies': 2}):
      with self.assertRaisesRegex(ValueError, '_Handler: a session belongs to'):
        _Handler(**kwargs)

  def test_token_limits(self):
    for args, limit in (({}, None), ({'max_tokens': 3}, 3), ({'max_new_tokens': 0}, None),
                        ({'max_completion_tokens': 4, 'max_tokens': 'x'}, 4)):
      self.assertEqual(limit, _Handler().token_limit(args))


if __name__ == '__main__':
  unittest.main()
