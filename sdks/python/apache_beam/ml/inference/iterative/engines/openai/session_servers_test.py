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

"""What the session makes of the differences between servers."""

import json
import time
import unittest
from unittest import mock

from apache_beam.ml.inference.iterative.session import Delta
from apache_beam.ml.inference.iterative.session import Request
from apache_beam.ml.inference.iterative.session import Transcript
from apache_beam.testing.inference.language import whole_text
from apache_beam.testing.inference.sse_server import FakeServer
from apache_beam.testing.inference.sse_server import Reply

try:
  from apache_beam.ml.inference.iterative.engines.openai import session as openai_session
  from apache_beam.ml.inference.iterative.engines.openai.backoff import Backoff
  from apache_beam.ml.inference.iterative.engines.openai.session import OpenAISession
except ImportError:
  raise unittest.SkipTest('httpx is not installed.')

SCHEMA = {'response_format': {'type': 'json_schema', 'json_schema': {}}}


def stream(*choices):
  """Events, of choices or of whole objects."""
  events = [
      choice if 'choices' in choice else {
          'choices': [{
              'index': 0, **choice
          }]
      } for choice in choices
  ]
  return ''.join(f'data: {json.dumps(e)}\n\n' for e in events).encode()


def says(*choices, then='end'):
  return Reply(at_token=0, then=(stream(*choices), then))


def refuses(field, status=400):
  error = {'error': {'message': f"Unknown parameter: '{field}'."}}
  return Reply(status=status, body=json.dumps(error).encode())


class ServersTest(unittest.TestCase):
  def serve(self, *replies, endpoint='completions', owned_by='test', **kwargs):
    server = FakeServer(owned_by=owned_by).start()
    self.addCleanup(server.stop)
    server.script('hi', *replies)
    session = OpenAISession(
        server.base_url,
        'test',
        endpoint,
        backoff=Backoff(3, 0.001, 0.01),
        **kwargs)
    self.addCleanup(session.close)
    return server, session

  def generate(
      self, session, resume_from=None, prompt='hi', extra_body=None, **args):
    if extra_body:
      args['extra_body'] = extra_body
    session.submit(
        Request('one', prompt, {
            'max_tokens': 24, **args
        }), resume_from)
    whole = Delta()
    while whole.finish_reason is None:
      delta = session.poll('one', timeout=10)
      self.assertIsNotNone(delta)
      whole += delta
    return whole

  def test_a_grammar_is_not_gone_on_from(self):
    for extra in (SCHEMA, {'guided_choice': ['a', 'b']}, {'tools': [{}]}):
      for endpoint in ('chat', 'completions'):
        with self.subTest(extra=extra, endpoint=endpoint):
          half = {'delta': {'content': '{"name": "Bo'}}
          server, session = self.serve(
              says(half, then='cut'), endpoint=endpoint, owned_by='vllm')
          result = self.generate(session, extra_body=extra)
          self.assertEqual('{"name": "Bo', result.text)
          self.assertRegex(result.error, '^lost: .* 2 tokens, and the grammar')
          self.assertEqual(1, len(server.calls))
          # Nor by another session, of a worker that took it over.
          result = self.generate(
              session, Transcript('{"name"', (), 3), extra_body=extra)
          self.assertRegex(result.error, '^lost: .* 3 tokens, and the grammar')
          self.assertEqual(1, len(server.calls))

  def test_a_grammar_is_asked_for_again_before_its_first_text(self):
    server, session = self.serve(
        says({'delta': {'role': 'assistant'}}, then='cut'),
        Reply(status=503),
        says({'delta': {'content': '{}'}, 'finish_reason': 'stop'}),
        endpoint='chat')
    result = self.generate(session, extra_body=SCHEMA)
    self.assertEqual(('{}', 'stop', 2),
                     (result.text, result.finish_reason, result.retries))
    self.assertEqual(3, len(server.calls))

  def test_a_reason_with_each_event_ends_nothing(self):
    # As Gemini's, behind gateways.
    words = [{
        'delta': {
            'content': f'{i} '
        }, 'finish_reason': 'stop'
    } for i in range(5)]
    gaps = (0.05, 0.5, 0.5, 0.05, 0.05)
    parts = [p for word, gap in zip(words, gaps) for p in (stream(word), gap)]
    with mock.patch.object(openai_session, '_USAGE_TIMEOUT_SECS', 0.3):
      _, session = self.serve(
          Reply(at_token=0, then=(*parts, 'end')), endpoint='chat')
      self.assertEqual('0 1 2 3 4 ', self.generate(session).text)

  def test_a_stream_that_is_left_open_after_its_reason_is_complete(self):
    last = {'delta': {}, 'finish_reason': 'stop'}
    with mock.patch.object(openai_session, '_USAGE_TIMEOUT_SECS', 0.1):
      _, session = self.serve(
          says({'delta': {'content': 'a'}}, last, then='hang'),
          endpoint='chat')
      result = self.generate(session)
    self.assertEqual(('a', 'stop'), (result.text, result.finish_reason))

  def test_a_refusal_that_repeats_the_body_takes_nothing_from_others(self):
    error = {
        'error': {
            'message': "1 validation error: {'msg': 'bad message', 'input': "
            "{'stream_options': {'include_usage': True}, "
            "'return_token_ids': True, 'prompt': 'hi'}}",
            'code': 400
        }
    }
    refusal = Reply(status=400, body=json.dumps(error).encode())
    server, session = self.serve(*[refusal] * 5, owned_by='vllm')
    result = self.generate(session)
    self.assertRegex(result.error, 'bad message')
    self.assertEqual('exact', session.resumes)
    result = self.generate(session, prompt='good')
    self.assertIsNotNone(result.prompt_tokens)
    self.assertEqual(result.tokens, len(result.token_ids))
    for field in ('stream_options', 'return_token_ids'):
      self.assertIn(field, server.calls[-1])

  def test_thoughts_are_not_gone_on_from(self):
    thought = {'delta': {'reasoning_content': 'hm'}}
    text = {'delta': {'content': 'So '}}
    server, session = self.serve(
        says(thought, then='cut'),
        says(thought, text, then='cut'),
        endpoint='chat',
        owned_by='vllm')
    result = self.generate(session)
    self.assertEqual('So ', result.text)
    self.assertRegex(result.error, '^lost: .* 1 tokens, and the thoughts')
    self.assertEqual((1, 2), (result.retries, len(server.calls)))

  def test_thoughts_show_that_a_server_is_at_work(self):
    thoughts = [{'delta': {'reasoning': 'hm'}}] * 3
    for signs in (stream(*thoughts), b': ping\n\n' * 3, b'data:\n\n'):
      with self.subTest(signs=signs):
        _, session = self.serve(
            Reply(at_token=0, then=(signs, 'hang')), endpoint='chat')
        session.submit(Request('one', 'hi', {}))
        delta = session.poll('one', timeout=10, ready=lambda _: True)
        self.assertEqual(('', 0, None),
                         (delta.text, delta.tokens, delta.finish_reason))
        self.assertTrue(delta.is_empty)
        self.assertGreater(delta.made, time.monotonic() - 10)
        # They are for those who ask for them.
        self.assertIsNone(session.poll('one', timeout=0.1))

  def test_optional_fields_are_left_out_for_good(self):
    for field, owner in (('stream_options', 'test'),
                         ('return_token_ids', 'vllm'),
                         ('continuous_usage_stats', 'sglang')):
      for status in (400, 422, 500):
        with self.subTest(field=field, status=status):
          server, session = self.serve(refuses(field, status), owned_by=owner)
          result = self.generate(session)
          self.assertEqual(whole_text('hi', 24)[0], result.text)
          self.assertEqual(0, result.retries)
          self.generate(session)
          asked = [field in json.dumps(call) for call in server.calls]
          self.assertEqual([True, False, False], asked)
          self.assertEqual('text', session.resumes)

  def test_a_seed_that_is_not_the_users_is_left_out(self):
    server, session = self.serve(refuses('seed'))
    session.submit(Request('one', 'hi', {'max_tokens': 2}, seed=3))
    while (delta := session.poll(
        'one', timeout=10)) is None or (delta.finish_reason is None):
      pass
    self.assertIsNone(delta.error)
    self.assertEqual([3, None], [call.get('seed') for call in server.calls])
    server.script('hi', refuses('seed'))
    result = self.generate(session, seed=4)
    self.assertIn("Unknown parameter: 'seed'", result.error)

  def test_fields_that_are_asked_for_are_not_left_out(self):
    server, session = self.serve(refuses('return_token_ids'), resumes='exact')
    self.assertIn('return_token_ids', self.generate(session).error)
    self.assertEqual(1, len(server.calls))
    # What is refused again is an error.
    server, session = self.serve(*[refuses('stream_options')] * 3)
    self.assertIn('stream_options', self.generate(session).error)
    self.assertEqual(2, len(server.calls))

  def test_calls_at_the_same_time_leave_a_field_out(self):
    server, session = self.serve()
    for i in range(20):
      server.script(f'<{i}>', refuses('stream_options'))
      session.submit(Request(str(i), f'<{i}>', {'max_tokens': 2}))
    for i in range(20):
      whole = Delta()
      while whole.finish_reason is None:
        whole += session.poll(str(i), timeout=10) or Delta()
      self.assertIsNone(whole.error)

  def test_the_model_itself_is_vllms(self):
    server = FakeServer(owned_by='vllm').start()
    self.addCleanup(server.stop)
    for model, resumes in (('test', 'exact'), ('another', 'text')):
      session = OpenAISession(server.base_url, model)
      self.addCleanup(session.close)
      self.assertEqual(resumes, session.resumes)

  def test_a_list_of_models_that_fails(self):
    async def sleep(secs):
      waits.append(secs)

    server = FakeServer(owned_by='vllm').start()
    self.addCleanup(server.stop)
    for status, count in ((404, 0), (500, 0), (401, 0), (503, 3)):
      waits = []
      server.failing['/v1/models'] = status
      session = OpenAISession(
          server.base_url, 'test', backoff=Backoff(3), sleep=sleep)
      self.addCleanup(session.close)
      self.assertEqual(('text', count), (session.resumes, len(waits)))

  def test_limits_after_a_break_count_what_a_server_says(self):
    many = {'choices': [{'index': 0, 'text': 'one two three'}]}
    usage = {**many, 'usage': {'prompt_tokens': 2, 'completion_tokens': 7}}
    ids = {
        'choices': [{
            'index': 0, 'text': 'one two', 'token_ids': [1, 2, 3, 4, 5]
        }]
    }
    for event, tokens in ((usage, 7), (ids, 5), (many, 3)):
      with self.subTest(event=event):
        end = {'text': '.', 'finish_reason': 'stop'}
        server, session = self.serve(says(event, then='cut'), says(end))
        self.generate(session, max_tokens=16)
        self.assertEqual([16, 16 - tokens],
                         [call['max_tokens'] for call in server.calls])

  def test_a_text_that_reaches_its_limit_is_no_whole_one(self):
    # The server says nothing of its end.
    texts = [{'text': 'a'}, {'text': ' b'}, {'text': ' c'}]
    mark = b'data: [DONE]\n\n'
    for limit, finish in ((3, 'length'), (4, 'stop')):
      _, session = self.serve(Reply(at_token=0, then=(stream(*texts), mark)))
      result = self.generate(session, max_tokens=limit)
      self.assertEqual(('a b c', finish), (result.text, result.finish_reason))

  def test_a_mark_is_no_end_of_a_server_that_gives_reasons(self):
    mark = b'data: [DONE]\n\n'
    alone = Reply(at_token=0, then=(stream({'text': 'a'}), mark))
    last = says({'text': ' b', 'finish_reason': 'stop'})
    for owner, replies, texts in (
        # Not known at first, and then known.
        ('test', [alone, last, alone, last], ['a', ' b', 'a b']),
        # llama-cpp-python, whose calls end each other.
        ('me', [alone, last, last], ['a b', ' b'])):
      with self.subTest(owner=owner):
        server, session = self.serve(*replies, owned_by=owner)
        found = [self.generate(session).text for _ in texts]
        self.assertEqual((texts, len(replies)), (found, len(server.calls)))
    # An answer that is no stream needs no reason.
    whole = b'{"choices": [{"text": "all"}]}'
    _, session = self.serve(Reply(body=whole), owned_by='me')
    self.assertEqual('all', self.generate(session).text)
    # A chat cannot go on.
    text = {'delta': {'content': 'a'}}
    _, session = self.serve(
        Reply(at_token=0, then=(stream(text), mark)),
        endpoint='chat',
        owned_by='me')
    self.assertRegex(self.generate(session).error, '^truncated: .* reason')

  def test_streams_without_any_end_are_not_gone_on_from_for_ever(self):
    text = says({'text': 'a'})
    server, session = self.serve(*[text] * 9)
    result = self.generate(session)
    self.assertEqual(('aa', 2), (result.text, len(server.calls)))
    self.assertRegex(result.error, '^truncated: ')
    # But those of a server that does say when a text ends.
    last = says({'text': ' b', 'finish_reason': 'stop'})
    server, session = self.serve(last, *[text] * 4, last)
    self.generate(session)
    self.assertEqual('aaaa b', self.generate(session).text)

  def test_calls_that_would_end_each_other_are_made_one_by_one(self):
    for owner, most in (('me', 1), ('test', 8)):
      server, session = self.serve(owned_by=owner)
      server.reply = Reply(token_secs=0.01)
      for i in range(8):
        session.submit(Request(str(i), 'hello', {'max_tokens': 8}))
      for i in range(8):
        whole = Delta()
        while whole.finish_reason is None:
          whole += session.poll(str(i), timeout=10) or Delta()
        self.assertEqual(whole_text('hello', 8)[0], whole.text)
      self.assertEqual(most, server.most_at_once)

  def test_what_may_be_a_stop_string_is_text_if_the_call_fails(self):
    error = {'choices': [], 'error': {'message': 'no memory'}}
    _, session = self.serve(says({'text': 'x</e'}, error))
    result = self.generate(session, stop=['</end>'])
    self.assertEqual(('x</e', 'server: no memory'), (result.text, result.error))

  def test_a_gateway_without_tokenize_goes_on_by_text(self):
    server, session = self.serve(owned_by='vllm')
    server.failing.update({'/tokenize': 404, '/detokenize': 404})
    server.script('hello', Reply(at_token=9, then='cut'))
    result = self.generate(session, prompt='hello')
    self.assertEqual((whole_text('hello', 24)[0], 1, None),
                     (result.text, result.retries, result.error))
    self.assertIsInstance(server.calls[-1]['prompt'], str)


if __name__ == '__main__':
  unittest.main()
