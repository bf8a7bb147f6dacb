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

"""Tests of what becomes of inputs that fail."""

import unittest

from apache_beam.ml.inference.iterative.chunk import Chunk
from apache_beam.ml.inference.iterative.dead_letters import FAILED
from apache_beam.ml.inference.iterative.dead_letters import DeadLetters
from apache_beam.ml.inference.iterative.dead_letters import exception_of


class OutputsTest(unittest.TestCase):
  def outputs(self, error, cause=None, index=0, exc_class=Exception):
    chunk = Chunk('a', index, finish_reason='error', error=error)
    return list(DeadLetters(exc_class).outputs(('k', 'x'), chunk, cause))

  def test_an_input_without_chunks_is_in_one_place(self):
    (dead, ) = self.outputs('server: 503')
    self.assertEqual(dead.tag, FAILED)
    self.assertEqual(
        dead.value,
        ([('k', 'x')], (RuntimeError, 'server: 503', ['server: 503'])))

  def test_chunks_have_an_end(self):
    end, dead = self.outputs('server: 503', index=3)
    self.assertTrue(end.is_last and end.dead_lettered)
    self.assertEqual(dead.tag, FAILED)

  def test_the_exception_is_that_of_the_input(self):
    try:
      try:
        raise KeyError('role')
      except KeyError as e:
        raise ValueError('no prompt') from e
    except ValueError as e:
      failure = e
    for exc_class, caught in (
        (Exception, ValueError), (ValueError, ValueError), (KeyError, KeyError),
        ((OSError, KeyError), KeyError)):
      (dead, ) = self.outputs('invalid: no prompt', failure, 0, exc_class)
      self.assertEqual(dead.value[1][0], caught)
      self.assertIn(caught.__name__, dead.value[1][2][-1])
    with self.assertRaisesRegex(ValueError, 'no prompt'):
      self.outputs('invalid: no prompt', failure, 0, OSError)

  def test_errors_of_engines_have_a_class(self):
    for error, kind in (('invalid: x', ValueError), ('duplicate: x', ValueError),
                        ('timeout: x', TimeoutError), ('engine: x', RuntimeError),
                        ('anything', RuntimeError)):
      self.assertIs(type(exception_of(error)), kind)
      self.assertEqual(str(exception_of(error)), error)
    with self.assertRaisesRegex(TimeoutError, 'too long'):
      self.outputs('timeout: too long', None, 2, (ValueError, RuntimeError))

  def test_refuses_what_is_no_exception(self):
    for exc_class in ('ValueError', ValueError('x'), (ValueError, 3), int,
                      None):
      with self.assertRaisesRegex(TypeError, 'exc_class='):
        DeadLetters(exc_class)


if __name__ == '__main__':
  unittest.main()
