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

"""Serves the live page to this machine: http.server and server-sent events."""

import base64
import hashlib
import http.server
import json
import threading

from apache_beam.examples.inference.iterative_live_page import page
from apache_beam.examples.inference.iterative_live_page.feed import Feed
from apache_beam.examples.inference.iterative_live_page.feed import TooManyWatchers

__all__ = ['LiveServer', 'MOST_BYTES']

_LOOPBACK = '127.0.0.1'
# Of a message. That of a text with the most characters is less.
MOST_BYTES = 1 << 21
# For a sender or a reader that does not go on.
_TIMEOUT_SECS = 10
# Connections at the same time; pages and senders.
_MOST_CONNECTIONS = 64
# A comment that finds out who has left.
_HEARTBEAT_SECS = 2


class LiveServer(http.server.ThreadingHTTPServer):
  """Shows a feed as a web page, and takes its messages by POST.

  Listens to 127.0.0.1 alone, from start to the end of its context. What a web
  page of another site could send is refused: it cannot name this host, nor post
  JSON without being asked for its origin.

  Args:
    feed: what is shown.
    port: 0 for one that is free.
  """
  daemon_threads = True

  def __init__(self, feed: Feed, port: int = 0):
    super().__init__((_LOOPBACK, port), _Handler)
    self.feed = feed
    self.port = self.server_address[1]
    self.hosts = [f'{name}:{self.port}' for name in (_LOOPBACK, 'localhost')]
    self.page = page.PAGE.encode()
    self.policy = _content_policy()
    self._places = threading.BoundedSemaphore(_MOST_CONNECTIONS)

  @property
  def url(self) -> str:
    return f'http://{_LOOPBACK}:{self.port}/'

  def __enter__(self):
    threading.Thread(
        target=self.serve_forever, name='LiveServer', daemon=True).start()
    return self

  def __exit__(self, *unused):
    self.feed.close()
    self.shutdown()
    self.server_close()

  def process_request(self, request, client_address):
    if not self._places.acquire(blocking=False):
      self.shutdown_request(request)
      return
    super().process_request(request, client_address)

  def process_request_thread(self, request, client_address):
    try:
      super().process_request_thread(request, client_address)
    finally:
      self._places.release()

  def handle_error(self, request, client_address):
    # Somebody has left, or took too long.
    pass


def _content_policy():
  """Lets the page run its own script, and speak with this server alone."""
  def digest(text):
    raw = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(raw).decode()}'"

  return '; '.join([
      "default-src 'none'",
      f'script-src {digest(page.SCRIPT)}',
      f'style-src {digest(page.STYLE)}',
      "connect-src 'self'",
      'img-src data:',
      "base-uri 'none'",
      "form-action 'none'",
      "frame-ancestors 'none'",
  ])


class _Refused(Exception):
  """With a status and a reason."""


class _Handler(http.server.BaseHTTPRequestHandler):
  server: LiveServer
  timeout = _TIMEOUT_SECS

  def do_GET(self):
    try:
      self._check_host()
      if self.path == '/':
        self._respond(200, 'text/html; charset=utf-8', self.server.page)
      elif self.path == '/events':
        self._send_events()
      else:
        raise _Refused(404, 'there are / and /events')
    except _Refused as e:
      self._refuse(*e.args)

  def do_POST(self):
    try:
      self._check_host()
      if self.path != '/messages':
        raise _Refused(404, 'messages go to /messages')
      if self.headers.get('Origin') is not None:
        raise _Refused(403, 'web pages send no messages')
      if self.headers.get('Content-Type') != 'application/json':
        raise _Refused(415, 'a message has the type application/json')
      try:
        self.server.feed.publish(json.loads(self.rfile.read(self._length())))
      except (ValueError, RecursionError) as e:
        raise _Refused(400, str(e)) from e
      self._respond(204)
    except _Refused as e:
      self._refuse(*e.args)

  def _check_host(self):
    # The name of another site may lead here too (DNS rebinding).
    if self.headers.get('Host') not in self.server.hosts:
      raise _Refused(403, f'the host is {self.server.hosts[0]}')

  def _length(self):
    text = self.headers.get('Content-Length') or ''
    if not (text.isascii() and text.isdecimal()):
      raise _Refused(411, 'a message needs its Content-Length')
    if len(text) > 12 or int(text) > MOST_BYTES:
      raise _Refused(413, f'a message has at most {MOST_BYTES} bytes')
    return int(text)

  def _send_events(self):
    feed = self.server.feed
    try:
      watcher = feed.watch()
    except TooManyWatchers as e:
      raise _Refused(503, str(e)) from e
    with watcher:
      self._head(200, 'text/event-stream')
      is_last = False
      while not is_last:
        # What was told before the end is still sent.
        is_last = feed.is_closed
        events = watcher.take(_HEARTBEAT_SECS)
        # json.dumps writes no line breaks, so an event is a line.
        text = ''.join(
            f'event: {name}\ndata: {json.dumps(data)}\n\n'
            for name, data in events)
        self.wfile.write((text or ': still here\n\n').encode())

  def _refuse(self, status, reason):
    self._respond(status, 'text/plain; charset=utf-8', f'{reason}\n'.encode())

  def _respond(self, status, kind=None, body=b''):
    self._head(status, kind, len(body))
    self.wfile.write(body)

  def _head(self, status, kind=None, length=None):
    self.send_response(status)
    if kind is not None:
      self.send_header('Content-Type', kind)
    if length is not None:
      self.send_header('Content-Length', str(length))
    for name, value in {
        'Cache-Control': 'no-store',
        'Content-Security-Policy': self.server.policy,
        'Cross-Origin-Resource-Policy': 'same-origin',
        'Referrer-Policy': 'no-referrer',
        'X-Content-Type-Options': 'nosniff',
    }.items():
      self.send_header(name, value)
    self.end_headers()

  def log_message(self, format, *args):
    # The command line belongs to the pipeline.
    pass
