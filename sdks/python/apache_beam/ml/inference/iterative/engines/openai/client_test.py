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

"""Tests for calls of OpenAI-compatible servers."""

import asyncio
import datetime
import ipaddress
import json
import os
import ssl
import tempfile
import unittest
from unittest import mock

from apache_beam.ml.inference.iterative.engines.openai.failures import CallFailed
from apache_beam.ml.inference.iterative.engines.openai.protocol import Event
from apache_beam.testing.inference.language import whole_text
from apache_beam.testing.inference.sse_server import FakeServer
from apache_beam.testing.inference.sse_server import Reply

try:
  from apache_beam.ml.inference.iterative.engines.openai.client import OpenAIClient
  from apache_beam.ml.inference.iterative.engines.openai.client import ServerLimits
except ImportError:
  raise unittest.SkipTest('httpx is not installed.')

_TOKENS = 8
_BODY = {
    'prompt': 'hello',
    'max_tokens': _TOKENS,
    'stream_options': {
        'include_usage': True
    }
}
_KEY = 'sk-never-shown-to-anybody'


def _refusal(message, **kwargs):
  body = json.dumps({'error': {'message': message}}).encode()
  return Reply(body=body, **kwargs)


class OpenAIClientTest(unittest.TestCase):
  def serve(self, reply=Reply(), **kwargs):
    server = FakeServer(reply, **kwargs).start()
    self.addCleanup(server.stop)
    return server

  def run_on(
      self, server, use, api_key=None, key_name=None, limits=ServerLimits()):
    """What a coroutine function returns for a client of the server."""
    async def run():
      client = OpenAIClient(server.base_url, 'test', api_key, key_name, limits)
      try:
        return await use(client)
      finally:
        await client.close()

    return asyncio.run(run())

  def stream(self, server, endpoint='completions', body=_BODY, **kwargs):
    async def use(client):
      return [event async for event in client.stream(endpoint, body)]

    return self.run_on(server, use, **kwargs)

  def failure(self, reply, **kwargs):
    """How a call that is answered so fails, and the server."""
    server = self.serve(reply)
    with self.assertRaises(CallFailed) as raised:
      self.stream(server, **kwargs)
    return raised.exception, server

  def test_events_of_a_stream(self):
    chat = {**_BODY, 'messages': [{'role': 'user', 'content': 'tell'}]}
    del chat['prompt']
    for endpoint, body, prompt in (
        ('completions', _BODY, 'hello'),
        ('chat', chat, 'user: tell\nassistant: ')):
      with self.subTest(endpoint=endpoint):
        server = self.serve()
        events = self.stream(server, endpoint, body)
        text, ids = whole_text(prompt, _TOKENS)
        self.assertEqual(text, ''.join(event.text for event in events))
        self.assertEqual([len(ids)],
                         [
                             event.completion_tokens
                             for event in events if event.completion_tokens
                         ])
        self.assertEqual(['length'],
                         [e.finish_reason for e in events if e.finish_reason])
        self.assertEqual(Event(is_done=True), events[-1])
        self.assertEqual([{
            'model': 'test', 'stream': True, **body
        }],
                         server.calls)

  def test_the_same_events_however_they_are_cut(self):
    expected = [e for e in self.stream(self.serve()) if e != Event()]
    for size in (1, 7):
      events = self.stream(self.serve(Reply(write_bytes=size)))
      self.assertEqual(expected, [e for e in events if e != Event()])

  def test_a_comment_is_a_sign_of_life(self):
    reply = Reply(at_token=0, then=(b': ping\n\n', 0.1, b'data: [DONE]\n\n'))
    self.assertEqual([Event(), Event(is_done=True)],
                     self.stream(self.serve(reply)))

  def test_an_answer_that_is_no_stream(self):
    body = b'{"choices": [{"text": "all", "finish_reason": "stop"}]}'
    events = [e for e in self.stream(self.serve(Reply(body=body))) if e.text]
    self.assertEqual(['all'], [event.text for event in events])
    last = self.stream(self.serve(Reply(body=body)))[-1]
    self.assertEqual(Event(is_done=True, is_whole=True), last)
    failure, _ = self.failure(Reply(body=b'<html>welcome'))
    self.assertEqual(('malformed', False), (failure.kind, failure.is_retriable))
    self.assertIn("'<html>welcome'", failure.message)

  def test_why_a_server_refuses_and_when_it_may_be_asked_again(self):
    again = {'Retry-After': '7'}
    for reply, expected in (
        (_refusal('slow down', status=429, headers=again),
         ('rate_limit', '429, slow down', True, 7)),
        (_refusal('no memory', status=503),
         ('server', '503, no memory', True, None)),
        (_refusal('no memory', status=503, headers={'x-should-retry': 'false'}),
         ('server', '503, no memory', False, None)),
        (_refusal("no 'seed'", status=400),
         ('invalid', "400, no 'seed'", False, None))):
      failure, _ = self.failure(reply)
      self.assertEqual(
          expected,
          (
              failure.kind,
              failure.message,
              failure.is_retriable,
              failure.retry_after))
    self.assertEqual(('seed', ), failure.named)

  def test_an_error_amid_a_stream(self):
    error = b'data: {"error": {"message": "no memory"}}\n\n'
    failure, _ = self.failure(Reply(at_token=3, then=error))
    self.assertEqual(('server', 'no memory'), (failure.kind, failure.message))

  def test_what_came_before_a_break(self):
    server, texts = self.serve(Reply(at_token=3, then='cut')), []

    async def use(client):
      async for event in client.stream('completions', _BODY):
        texts.append(event.text)

    with self.assertRaises(CallFailed) as raised:
      self.run_on(server, use)
    self.assertEqual(('connection', True),
                     (raised.exception.kind, raised.exception.is_retriable))
    self.assertEqual(whole_text('hello', 3)[0], ''.join(texts))

  def test_a_server_that_is_not_there(self):
    server = FakeServer().start()
    server.stop()
    with self.assertRaises(CallFailed) as raised:
      self.stream(server)
    self.assertEqual(('connection', True),
                     (raised.exception.kind, raised.exception.is_retriable))

  def test_a_server_that_is_silent(self):
    for at_token in (0, 3):
      failure, _ = self.failure(
          Reply(at_token=at_token, then='hang'),
          limits=ServerLimits(read_timeout_secs=0.2))
      self.assertEqual(('timeout', True), (failure.kind, failure.is_retriable))
      self.assertIn('silent for 0.2 s', failure.message)

  def test_sizes_are_bounded(self):
    limits = ServerLimits(max_event_bytes=1000, max_body_bytes=10000)
    many = (b'data: ' + b'x' * 900 + b'\n\n', ) * 20
    for reply in (Reply(at_token=0, then=b'data: ' + b'x' * 2000),
                  Reply(at_token=0, then=many),
                  Reply(body=b'x' * 20000, status=500)):
      failure, _ = self.failure(reply, limits=limits)
      self.assertEqual(('malformed', False),
                       (failure.kind, failure.is_retriable))

  def test_a_redirect_is_not_followed(self):
    failure, server = self.failure(
        Reply(
            status=307,
            headers={'location': f'https://me:{_KEY}@other/v1/completions?k=1'},
            body=b''),
        api_key=_KEY)
    self.assertRegex(
        failure.message,
        'redirects to https://other/v1; give that as base_url$')
    self.assertFalse(failure.is_retriable)
    self.assertEqual(1, len(server.calls))

  def test_a_key_is_sent_and_never_shown(self):
    for reply in (_refusal(f'{_KEY}!', status=400),
                  _refusal(f'{_KEY[:9]}...', status=401),
                  Reply(at_token=0,
                        then=f'data: {{"error": "{_KEY}"}}\n\n'.encode())):
      failure, server = self.failure(reply, api_key=_KEY, key_name='MY_KEY')
      self.assertEqual(f'bearer {_KEY}', server.headers[0]['authorization'])
      self.assertNotIn('never', str(failure))
      self.assertIn('***', failure.message)
      self.assertEqual(reply.status == 401, 'MY_KEY' in failure.message)

  def test_certificates_are_verified(self):
    with tempfile.TemporaryDirectory() as folder:
      path = os.path.join(folder, 'server.pem')
      _write_certificate(path)
      context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
      context.load_cert_chain(path)
      server = self.serve(ssl_context=context)
      with self.assertRaises(CallFailed) as raised:
        self.stream(server)
      self.assertIn('CERTIFICATE_VERIFY_FAILED', raised.exception.message)
      self.assertFalse(raised.exception.is_retriable)
      self.assertEqual([], server.calls)
      with mock.patch.dict(os.environ, {'SSL_CERT_FILE': path}):
        events = self.stream(server)
      self.assertEqual(
          whole_text('hello', _TOKENS)[0], ''.join(e.text for e in events))

  def test_who_owns_the_model(self):
    async def owner(client):
      return await client.owner()

    server = self.serve(owned_by='vllm')
    self.assertEqual('vllm', self.run_on(server, owner))
    # The list of a server that has none, or whose list fails.
    for status in (404, 500):
      server.failing['/v1/models'] = status
      self.assertIsNone(self.run_on(server, owner))
    server.failing['/v1/models'] = 503
    with self.assertRaises(CallFailed):
      self.run_on(server, owner)

  def test_tokens_of_a_prompt(self):
    async def use(client):
      token_ids = await client.tokenize('état')
      return token_ids, await client.detokenize(token_ids)

    self.assertEqual((tuple('état'.encode()), 'état'),
                     self.run_on(self.serve(), use))


class ServerLimitsTest(unittest.TestCase):
  def test_limits_that_are_none(self):
    for value, error in ((0, ValueError), ('1', TypeError), (True, TypeError)):
      with self.assertRaisesRegex(error, 'max_body_bytes'):
        ServerLimits(max_body_bytes=value)


def _write_certificate(path):
  from cryptography import x509
  from cryptography.hazmat.primitives import hashes
  from cryptography.hazmat.primitives import serialization
  from cryptography.hazmat.primitives.asymmetric import ec
  key = ec.generate_private_key(ec.SECP256R1())
  name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, '127.0.0.1')])
  now = datetime.datetime.now(datetime.timezone.utc)
  day = datetime.timedelta(days=1)
  address = x509.IPAddress(ipaddress.ip_address('127.0.0.1'))
  certificate = x509.CertificateBuilder(
      name,
      name,
      key.public_key(),
      x509.random_serial_number(),
      now - day,
      now + day).add_extension(
          x509.SubjectAlternativeName([address]),
          critical=False).sign(key, hashes.SHA256())
  with open(path, 'wb') as f:
    f.write(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption()))
    f.write(certificate.public_bytes(serialization.Encoding.PEM))


if __name__ == '__main__':
  unittest.main()
