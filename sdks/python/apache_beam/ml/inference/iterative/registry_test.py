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

"""Tests of the sessions of a process."""

import concurrent.futures
import unittest

from apache_beam.ml.inference.iterative import registry
from apache_beam.ml.inference.iterative.mailboxes_test import Engine


class RegistryTest(unittest.TestCase):
  def setUp(self):
    self.opened = []

  def open(self):
    self.opened.append(Engine())
    return self.opened[-1]

  def test_is_opened_once_by_many_threads(self):
    leases = [registry.acquire(self.id(), self.open) for _ in range(16)]
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
      sessions = list(threads.map(lambda lease: lease.session(), leases))
    self.assertEqual(len(self.opened), 1)
    self.assertEqual(set(sessions), set(self.opened))
    for lease in leases:
      self.assertTrue(self.opened[0].is_alive)
      lease.release()
    self.assertFalse(self.opened[0].is_alive)

  def test_is_opened_again_where_nobody_holds_it(self):
    for _ in range(2):
      lease = registry.acquire(self.id(), self.open)
      lease.session()
      lease.release()
    self.assertEqual(len(self.opened), 2)

  def test_a_dead_session_is_replaced_for_all(self):
    leases = [registry.acquire(self.id(), self.open) for _ in range(2)]
    leases[0].session().close()
    self.assertIs(leases[1].session(), self.opened[1])
    self.assertIs(leases[0].session(), self.opened[1])
    for lease in leases:
      lease.release()

  def test_keys_are_apart(self):
    leases = [registry.acquire(key, self.open) for key in 'ab']
    self.assertIsNot(leases[0].session(), leases[1].session())
    for lease in leases:
      lease.release()

  def test_a_session_that_does_not_open_is_tried_again(self):
    attempts = iter([RuntimeError('no memory'), Engine()])

    def open_session():
      result = next(attempts)
      if isinstance(result, Exception):
        raise result
      return result

    lease = registry.acquire(self.id(), open_session)
    with self.assertRaisesRegex(RuntimeError, 'no memory'):
      lease.session()
    self.assertTrue(lease.session().is_alive)
    lease.release()


if __name__ == '__main__':
  unittest.main()
