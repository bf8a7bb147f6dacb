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

"""What comes of the answers in shapes_test.yaml, in pipelines and in pieces."""

import functools
import json
import pathlib
import re
import unittest

import yaml
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from parameterized import parameterized

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference
from apache_beam.ml.inference.iterative.engines.openai.server_sent_events import EventReader
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.ml.inference.iterative.session import Delta
from apache_beam.ml.inference.iterative.session import Request
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.inference.sse_server import FakeServer
from apache_beam.testing.inference.sse_server import Reply

try:
  from apache_beam.ml.inference.iterative.engines.openai import client as openai_client
  from apache_beam.ml.inference.iterative.engines.openai.session import OpenAISession
  from apache_beam.ml.inference.openai_inference import Backoff
  from apache_beam.ml.inference.openai_inference import OpenAIChatModelHandler
  from apache_beam.ml.inference.openai_inference import OpenAICompletionsModelHandler
except ImportError:
  raise unittest.SkipTest('httpx is not installed.')

SHAPES = yaml.safe_load(
    pathlib.Path(__file__).with_name('shapes_test.yaml').read_text('utf-8'))
HANDLERS = {
    'chat': OpenAIChatModelHandler,
    'completions': OpenAICompletionsModelHandler
}
_DELTA = re.compile(r'"delta":\{(?:"content":("(?:[^"\\]|\\.)*"))?\}')
MODES = ('in_bundle', 'durable')
_CHUNKS = []


def _keep(chunk):
  """Of an importable module, so that each thread means the same list."""
  _CHUNKS.append(chunk)


def sent_of(shape, endpoint):
  """The answers of a shape, for an endpoint: mappings with a body in bytes."""
  answers = shape['sent'] if isinstance(shape['sent'],
                                        list) else [shape['sent']]
  answers = [a if isinstance(a, dict) else {'body': a} for a in answers]
  if endpoint == 'completions':
    answers = [{
        **a,
        'body': _DELTA.sub(
            lambda match: f'"text":{match[1] or chr(34) * 2}', a['body'])
    } for a in answers]
  return [{**a, 'body': a['body'].encode()} for a in answers]


def shapes_of(endpoint):
  return [(number, shape) for number, shape in enumerate(SHAPES)
          if shape.get('only') in (None, endpoint)]


def _reply(answer):
  headers = {
      'content-type': answer.get('type', 'text/event-stream'),
      **answer.get('headers', {})
  }
  if answer.get('status', 200) != 200:
    return Reply(answer['status'], headers, answer['body'] or None)
  ends = ('cut', ) if answer.get('cut') else ()
  return Reply(headers=headers, at_token=0, then=(answer['body'], *ends))


def _gives_reasons(shape):
  """Whether it is of a server that gives a reason where a text ends."""
  return 'error' in shape['wanted'] or re.search(
      '"finish_reason": ?"[^"]', str(shape['sent'])) is not None


@functools.cache
def results(endpoint, mode, gives_reasons):
  """The chunks and the calls of shapes, by their numbers."""
  shapes = [(number, shape) for number, shape in shapes_of(endpoint)
            if _gives_reasons(shape) == gives_reasons]
  with FakeServer() as server:
    for number, shape in shapes:
      replies = map(_reply, sent_of(shape, endpoint))
      server.script(f'<{number}>', *replies)
    handler = HANDLERS[endpoint](
        server.base_url, 'test', backoff=Backoff(2, 0.001, 0.01))
    _CHUNKS.clear()
    with beam.Pipeline(runner='FnApiRunner',
                       options=PipelineOptions(
                           ['--experiments=iterative_inference'])) as p:
      _ = (
          p | beam.Create([f'<{number}>' for number, _ in shapes])
          | RunInference(
              handler,
              inference_args={'max_tokens': 64},
              iterative=IterativeOptions(mode=mode))
          | beam.Map(_keep))
    calls = server.calls
  found = {}
  for number, _ in shapes:
    name = f'<{number}>'
    ids = {c.request_id for c in _CHUNKS if c.example == name}
    found[number] = ([c for c in _CHUNKS if c.request_id in ids],
                     [call for call in calls if name in json.dumps(call)])
  return found


class ShapesInPipelinesTest(unittest.TestCase):
  @parameterized.expand([(
      f'{endpoint}_{mode}_{number:03}_{shape["name"]}', endpoint, mode, number)
                         for endpoint in HANDLERS for mode in MODES
                         for number, shape in shapes_of(endpoint)])
  def test(self, unused_name, endpoint, mode, number):
    shape = SHAPES[number]
    found = results(endpoint, mode, _gives_reasons(shape))
    chunks, calls = found[number]
    wanted = shape['wanted']
    self.assertEqual(list(range(len(chunks))), [c.index for c in chunks])
    self.assertEqual([True], [c.is_last for c in chunks if c.is_last])
    last = chunks[-1]
    self.assertEqual((wanted.get('text', ''), wanted.get('finish', 'stop')),
                     (''.join(c.text for c in chunks), last.finish_reason),
                     last.error)
    if 'error' in wanted:
      self.assertIn(wanted['error'], last.error)
    else:
      self.assertIsNone(last.error)
    self.assertNotIn('secret', last.error or '')
    if 'tokens' in wanted:
      self.assertEqual(wanted['tokens'], last.usage.completion_tokens)
    self.assertEqual(wanted.get('prompt_tokens'), last.usage.prompt_tokens)
    self.assertEqual(len(sent_of(shape, endpoint)), len(calls))
    for field in wanted.get('lacks', ()):
      self.assertIn(field, calls[0])
      self.assertNotIn(field, calls[-1])


@functools.cache
def _session(endpoint):
  """A session, and the list of answers that it gets: lists of bytes."""
  answers = []

  class Body(openai_client._http.AsyncByteStream):
    def __init__(self, parts, is_cut):
      self._parts, self._is_cut = parts, is_cut

    async def __aiter__(self):
      for part in self._parts:
        yield part
      if self._is_cut:
        raise openai_client._http.ReadError('cut')

  def answer(unused_request):
    parts, is_cut = answers.pop(0)
    return openai_client._http.Response(200, stream=Body(parts, is_cut))

  async def sleep(unused_secs):
    pass

  session = OpenAISession(
      'http://localhost/v1',
      'test',
      endpoint,
      resumes={
          'chat': 'none', 'completions': 'text'
      }[endpoint],
      backoff=Backoff(2),
      sleep=sleep)
  session._client._client = openai_client._http.AsyncClient(
      transport=openai_client._http.MockTransport(answer))
  return session, answers


def outcome(endpoint, answers):
  """What comes of answers, each the pieces of a body and whether it is cut."""
  session, waiting = _session(endpoint)
  # Each shape is of another server.
  session._gives_reasons = False
  waiting[:] = answers
  session.submit(Request('one', 'hi', {'max_tokens': 64}))
  whole = Delta()
  while whole.finish_reason is None:
    whole += session.poll('one', timeout=30)
  counted = whole.prompt_tokens and whole.tokens
  return whole.text, whole.finish_reason, whole.error, counted


def _outcome_of(number, endpoint, change):
  answers = sent_of(SHAPES[number], endpoint)
  return outcome(
      endpoint,
      [(change(answer['body']), bool(answer.get('cut'))) for answer in answers])


# Bodies of good answers, of which the pieces do not matter.
_BODIES = [(endpoint, number) for endpoint in HANDLERS
           for number, shape in shapes_of(endpoint) if all(
               answer.get('status', 200) == 200
               for answer in sent_of(shape, endpoint))]
_SIGNS_OF_LIFE = (
    b': ping\n\n',
    b'data:\n\n',
    b'event: ping\ndata: {"type":"ping"}\n\n',
    b'event: heartbeat\ndata: now\n\n',
    b'id: 3\n\n',
    b'retry: 100\n\n',
    b'data: {"choices":[]}\n\n',
    b'\n')

_TEXT = re.compile(
    rb'(data: ?\{"choices":\[\{"index":0,"(?:delta":\{"content|text)":)'
    rb'("(?:[^"\\]|\\.)*")(\}?,"finish_reason":null\}\]\})')


def _events_of(body, draw):
  """A stream with the same texts in other events, and with signs of life."""
  events, before, text, after = [], b'', '', b''

  def flush():
    nonlocal text
    while text:
      size = draw(st.integers(1, len(text)))
      events.append(before + json.dumps(text[:size]).encode() + after)
      text = text[size:]

  for event in body.split(b'\n\n'):
    if match := _TEXT.fullmatch(event):
      before, after = match[1], match[3]
      text += json.loads(match[2])
    else:
      flush()
      events.append(event)
  flush()
  stream = b''
  for event in events:
    # Nothing stands beside what is no stream.
    if stream and body[:1] != b'<' or _TEXT.fullmatch(event):
      stream += draw(st.sampled_from((b'', b'', *_SIGNS_OF_LIFE)))
    stream += event + (b'\n\n' if event is not events[-1] else b'')
  return stream


class PiecesTest(unittest.TestCase):
  @classmethod
  def tearDownClass(cls):
    for endpoint in HANDLERS:
      _session(endpoint)[0].close()
    _session.cache_clear()

  def test_cut_at_every_byte(self):
    for endpoint, number in _BODIES:
      for answer in sent_of(SHAPES[number], endpoint):
        body, found = answer['body'], []
        for cut in range(len(body) + 1):
          reader = EventReader(10_000)
          events = reader.feed(body[:cut]) + reader.feed(body[cut:])
          found.append(events + reader.end())
        for events in found:
          self.assertEqual(found[0], events, SHAPES[number]['name'])

  def test_byte_by_byte(self):
    for endpoint, number in _BODIES:
      one, whole = (
          _outcome_of(number, endpoint, change)
          for change in (lambda body: [bytes([b]) for b in body],
                         lambda body: [body]))
      self.assertEqual(whole, one, SHAPES[number]['name'])

  @settings(deadline=None, max_examples=500)
  @given(st.sampled_from(_BODIES), st.data())
  def test_other_events_and_line_ends(self, body, data):
    endpoint, number = body
    newline = data.draw(st.sampled_from((b'\n', b'\r\n', b'\r')))
    ends = data.draw(st.lists(st.integers(0, 1500), max_size=6))

    def change(body):
      body = _events_of(body, data.draw).replace(b'\n', newline)
      cuts = sorted({min(end, len(body)) for end in ends} | {len(body)})
      return [body[a:b] for a, b in zip([0, *cuts], cuts)]

    self.assertEqual(
        _outcome_of(number, endpoint, lambda body: [body]),
        _outcome_of(number, endpoint, change),
        SHAPES[number]['name'])


if __name__ == '__main__':
  unittest.main()
