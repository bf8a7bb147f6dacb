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
import subprocess
import sys
import time
import unittest

from apache_beam.ml.inference.iterative import registry
from apache_beam.ml.inference.iterative.engines.mailboxes_test import Engine

_AT_EXIT = '''
import sys, threading, time
from apache_beam.ml.inference.iterative import registry
from apache_beam.ml.inference.iterative.engines.mailboxes_test import Engine

def say(what):
  # A line in one piece: print() writes its end apart, between other threads.
  sys.stdout.write(f'{what}\\n')
  sys.stdout.flush()

class Slow(Engine):
  def close(self):
    super().close()
    say('closed')

held = registry.acquire('held', Slow)
held.session()
idle = registry.acquire('idle', Slow, idle_secs=60)
idle.session()
idle.in_flight.add(idle, 1, 1)
idle.release()

def again():
  while True:
    try:
      held.session()
    except RuntimeError as e:
      say(e)
      return

threading.Thread(target=again, daemon=True).start()
threading._register_atexit(time.sleep, 0.1)
'''


class RegistryTest(unittest.TestCase):
  def setUp(self):
    self.opened = []

  def open(self):
    self.opened.append(Engine())
    return self.opened[-1]

  def ask(self, lease):
    """One request, to an open session."""
    lease.session()
    self.assertTrue(lease.in_flight.add(self, 1, limit=64))
    lease.in_flight.remove(self)

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

  def test_an_open_session_stays_open_for_a_while(self):
    for _ in range(4):
      lease = registry.acquire(self.id(), self.open, idle_secs=60)
      self.ask(lease)
      lease.release()
      # Once.
      lease.release()
    self.assertEqual(len(self.opened), 1)
    self.assertTrue(self.opened[0].is_alive)
    lease = registry.acquire(self.id(), self.open, idle_secs=0)
    lease.session()
    lease.release()
    self.assertFalse(self.opened[0].is_alive)

  def test_one_that_was_not_opened_is_forgotten_at_once(self):
    registry.acquire(self.id(), self.open, idle_secs=60).release()
    self.assertEqual(self.opened, [])
    self.assertNotIn(self.id(), registry._entries)

  def test_one_that_had_no_request_is_closed_at_once(self):
    lease = registry.acquire(self.id(), self.open, idle_secs=60)
    lease.session()
    lease.release()
    self.assertFalse(self.opened[0].is_alive)
    self.assertNotIn(self.id(), registry._entries)

  def test_an_idle_session_is_closed_in_time(self):
    lease = registry.acquire(self.id(), self.open, idle_secs=0.05)
    self.ask(lease)
    lease.release()
    deadline = time.time() + 30
    while self.opened[0].is_alive and time.time() < deadline:
      time.sleep(0.01)
    self.assertFalse(self.opened[0].is_alive)
    self.assertNotIn(self.id(), registry._entries)

  def test_one_that_is_taken_again_is_not_closed(self):
    lease = registry.acquire(self.id(), self.open, idle_secs=0.05)
    self.ask(lease)
    lease.release()
    again = registry.acquire(self.id(), self.open, idle_secs=0.05)
    time.sleep(0.2)
    self.assertTrue(self.opened[0].is_alive)
    again.release()

  def test_a_later_pipeline_closes_what_is_idle_of_earlier_ones(self):
    def key(pipeline, model):
      return registry.SessionKey(f'{self.id()} {pipeline}', model)

    first = registry.acquire(key('first', 'a'), self.open, idle_secs=60)
    busy = registry.acquire(key('first', 'b'), self.open, idle_secs=60)
    second = registry.acquire(key('second', 'a'), self.open, idle_secs=60)
    other = registry.acquire(key('second', 'b'), self.open, idle_secs=60)
    for lease in (first, busy, second):
      self.ask(lease)
    first.release()
    second.release()
    self.assertTrue(self.opened[0].is_alive)
    other.session()
    self.assertEqual([session.is_alive for session in self.opened],
                     [False, True, True, True])
    for lease in (busy, other):
      lease.release()
    registry.acquire(key('third', 'a'), self.open).session()
    self.assertEqual([session.is_alive for session in self.opened],
                     4 * [False] + [True])

  def test_all_are_closed_when_the_process_ends(self):
    done = subprocess.run([sys.executable, '-c', _AT_EXIT],
                          stdout=subprocess.PIPE,
                          text=True,
                          check=True)
    lines = done.stdout.splitlines()
    self.assertEqual(lines.count('closed'), 2, lines)
    self.assertLessEqual(
        set(lines), {'closed', 'The process ends, so no session is opened.'})

  def test_what_is_attached_lives_as_long_as_the_session(self):
    made = []

    def make():
      made.append(object())
      return made[-1]

    one = registry.acquire(self.id(), self.open, idle_secs=60)
    other = registry.acquire(self.id(), self.open, idle_secs=60)
    attached = one.attached('key', make)
    self.ask(one)
    self.assertIs(other.attached('key', make), attached)
    one.release()
    other.release()
    again = registry.acquire(self.id(), self.open)
    self.assertIs(again.attached('key', make), attached)
    self.assertEqual(made, [attached])
    self.assertIsNot(again.attached('other key', make), attached)
    again.release()

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
