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

"""Tests of the server of the live page, over real sockets."""

import http.client
import json
import socket
import unittest
from unittest import mock

from apache_beam.examples.inference.iterative_live_page import page
from apache_beam.examples.inference.iterative_live_page import server
from apache_beam.examples.inference.iterative_live_page.board import Board
from apache_beam.examples.inference.iterative_live_page.board_test import piece
from apache_beam.examples.inference.iterative_live_page.feed import Feed

_JSON = {'Content-Type': 'application/json'}


class ServerTest(unittest.TestCase):
  def setUp(self):
    self.feed = Feed(Board(['a'], {'model': '</script>'}, 8), most_watchers=2)
    self.server = self.serve()

  def serve(self):
    one = server.LiveServer(self.feed)
    one.__enter__()
    self.addCleanup(one.__exit__)
    return one

  def connect(self):
    connection = http.client.HTTPConnection(
        '127.0.0.1', self.server.port, timeout=30)
    self.addCleanup(connection.close)
    return connection

  def ask(self, method, path, body=None, headers=None):
    connection = self.connect()
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    if response.headers['Content-Type'] == 'text/event-stream':
      self.addCleanup(response.close)
      return response
    return response.status, response.read().decode(), response.headers

  def post(self, message, **headers):
    body = message if isinstance(message, bytes) else json.dumps(message)
    return self.ask('POST', '/messages', body, {**_JSON, **headers})

  def events(self, stream, count):
    """Reads so many events, and leaves comments out."""
    found = []
    while len(found) < count:
      line = stream.readline().decode()
      self.assertNotEqual(line, '', 'the stream has ended')
      if line.startswith('event: '):
        data = stream.readline().decode()
        self.assertTrue(data.startswith('data: '))
        found.append((line[7:].strip(), json.loads(data[6:])))
    return found

  def test_listens_to_this_machine_alone(self):
    self.assertEqual(self.server.server_address[0], '127.0.0.1')

  def test_page_has_one_script_which_the_policy_names(self):
    status, body, headers = self.ask('GET', '/')
    self.assertEqual((status, body), (200, page.PAGE))
    self.assertEqual(body.count('<script'), 1)
    self.assertIn(f'<script>{page.SCRIPT}</script>', body)
    self.assertIn(f'<style>{page.STYLE}</style>', body)
    policy = headers['Content-Security-Policy']
    self.assertIn("default-src 'none'", policy)
    self.assertNotIn('unsafe', policy)

  def test_page_loads_nothing_and_makes_no_markup_of_text(self):
    for word in ('http:',
                 'https:',
                 '//cdn',
                 'import(',
                 'innerHTML',
                 'outerHTML',
                 'insertAdjacentHTML',
                 'document.write',
                 'eval('):
      self.assertNotIn(word, page.PAGE)

  def test_changes_are_sent_as_they_come_and_late_ones_catch_up(self):
    early = self.ask('GET', '/events')
    [(name, first)] = self.events(early, 1)
    self.assertEqual((name, first['prompts']), ('snapshot', ['a']))
    text = 'line\nbreak \u2028 <b>ß</b> \U0001f600'
    self.assertEqual(self.post(piece(0, text))[0], 204)
    [(name, lane)] = self.events(early, 1)
    self.assertEqual((name, lane['added']), ('lane', text))
    late = self.ask('GET', '/events')
    [(name, state)] = self.events(late, 1)
    self.assertEqual(name, 'snapshot')
    self.assertIn(text, [lane['added'] for lane in state['lanes']])

  def test_the_last_events_are_sent_before_the_end(self):
    stream = self.ask('GET', '/events')
    self.events(stream, 1)
    self.feed.set_status('done')
    self.feed.close()
    self.assertEqual(self.events(stream, 1), [('status', {'status': 'done'})])

  def test_pages_are_bounded(self):
    for _ in range(2):
      self.events(self.ask('GET', '/events'), 1)
    status, reason, _ = self.ask('GET', '/events')
    self.assertEqual((status, reason), (503, '2 pages are open already\n'))

  def test_connections_are_bounded(self):
    with mock.patch.object(server, '_MOST_CONNECTIONS', 1):
      one = self.serve()
    first = socket.create_connection(('127.0.0.1', one.port), 30)
    self.addCleanup(first.close)
    # Accepted in the order in which they came.
    second = socket.create_connection(('127.0.0.1', one.port), 30)
    self.addCleanup(second.close)
    self.assertEqual(second.recv(1), b'')

  def test_other_hosts_and_sites_are_refused(self):
    for host in ('evil.example',
                 f'evil.example:{self.server.port}',
                 '127.0.0.1',
                 ''):
      for method, path in (('GET', '/'), ('GET', '/events'),
                           ('POST', '/messages')):
        with self.subTest(f'{method} {path} of {host}'):
          status, _, _ = self.ask(
              method, path, json.dumps(piece(0)), {**_JSON, 'Host': host})
          self.assertEqual(status, 403)
    for origin in ('http://evil.example', 'null', self.server.url[:-1]):
      self.assertEqual(self.post(piece(0), Origin=origin)[0], 403)
    # What a form of another site can send.
    for kind in ('text/plain', 'application/x-www-form-urlencoded'):
      status, _, _ = self.post(piece(0), **{'Content-Type': kind})
      self.assertEqual(status, 415)
    self.assertEqual(self.feed.snapshot()['lanes'][1]['pieces'], 0)

  def test_bad_messages_are_refused_with_a_reason(self):
    for body, what in ((b'{', 'Expecting'), (b'\xff', 'decode'),
                       (b'[' * 100_000, 'recursion'), (piece(0, prompt=7),
                                                       'prompt=7'),
                       ({}, 'prompt=None')):
      with self.subTest(what):
        status, reason, _ = self.post(body)
        self.assertEqual(status, 400)
        self.assertIn(what, reason)

  def test_a_large_message_is_refused_unread(self):
    connection = self.connect()
    connection.putrequest('POST', '/messages')
    connection.putheader('Content-Type', 'application/json')
    connection.putheader('Content-Length', str(server.MOST_BYTES + 1))
    connection.endheaders()
    self.assertEqual(connection.getresponse().status, 413)

  def test_the_longest_text_is_taken(self):
    message = piece(0, '\U0001f600' * 100_000)
    self.assertLess(len(json.dumps(message)), server.MOST_BYTES)
    self.assertEqual(self.post(message)[0], 204)

  def test_a_message_needs_a_length(self):
    for length in (None, '-1', '1_0', '٣', '9' * 5_000):
      connection = self.connect()
      connection.putrequest('POST', '/messages')
      connection.putheader('Content-Type', 'application/json')
      if length is not None:
        connection.putheader('Content-Length', length.encode())
      connection.endheaders()
      self.assertIn(connection.getresponse().status, (411, 413), length)

  def test_a_sender_that_does_not_go_on_is_left(self):
    with mock.patch.object(server._Handler, 'timeout', 0.2):
      connection = self.connect()
      connection.putrequest('POST', '/messages')
      connection.putheader('Content-Type', 'application/json')
      connection.putheader('Content-Length', '10')
      connection.endheaders(b'{"')
      with self.assertRaises(http.client.RemoteDisconnected):
        connection.getresponse()

  def test_other_paths_and_methods(self):
    self.assertEqual(self.ask('GET', '/../secret')[0], 404)
    self.assertEqual(self.ask('POST', '/', '{}', _JSON)[0], 404)
    self.assertEqual(self.ask('DELETE', '/')[0], 501)


if __name__ == '__main__':
  unittest.main()
