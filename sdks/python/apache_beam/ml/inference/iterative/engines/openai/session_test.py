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

"""Tests for the session on OpenAI-compatible servers."""

import asyncio
import itertools
import logging
import random
import threading
import time
import unittest

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from apache_beam.ml.inference.iterative.session import Delta
from apache_beam.ml.inference.iterative.session import Request
from apache_beam.ml.inference.iterative.session import Transcript
from apache_beam.testing.inference.language import decode
from apache_beam.testing.inference.language import whole_text
from apache_beam.testing.inference.sse_server import FakeServer
from apache_beam.testing.inference.sse_server import Reply

try:
  from apache_beam.ml.inference.iterative.engines.openai.backoff import Backoff
  from apache_beam.ml.inference.iterative.engines.openai.client import ServerLimits
  from apache_beam.ml.inference.iterative.engines.openai.session import OpenAISession
except ImportError:
  raise unittest.SkipTest('httpx is not installed.')

# One with text beyond ASCII and emoji of two tokens, without an early end.
PROMPT = 'hello'
TOKENS = 24
WHOLE, _ = whole_text(PROMPT, TOKENS)
FAST = Backoff(initial_secs=0.001)


def session_on(server, resumes=None, backoff=FAST, **kwargs):
  return OpenAISession(
      server.base_url, 'test', resumes=resumes, backoff=backoff, **kwargs)


def submit(session, prompt=PROMPT, resume_from=None, name=None, **args):
  name = name or prompt
  session.submit(
      Request(name, prompt, {
          'max_tokens': TOKENS, **args
      }), resume_from)
  return name


def collect(session, name, timeout=30):
  """All that comes for a request, and in which pieces."""
  whole, pieces = Delta(), []
  until = time.monotonic() + timeout
  while whole.finish_reason is None:
    delta = session.poll(name, timeout=1)
    if delta is not None:
      whole += delta
      pieces.append(delta)
    elif time.monotonic() > until:
      raise AssertionError(f'No end after {timeout} s: {whole}')
  return whole, pieces


def generate(session, prompt=PROMPT, **kwargs):
  return collect(session, submit(session, prompt, **kwargs))[0]


def wait_for_tasks(session):
  """A connection is free again just after its text has ended."""
  async def wait():
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)

  asyncio.run_coroutine_threadsafe(wait(), session._loop).result(timeout=30)


class OpenAISessionTest(unittest.TestCase):
  def assert_whole(self, result, prompt=PROMPT, tokens=TOKENS):
    text, token_ids = whole_text(prompt, tokens)
    self.assertIsNone(result.error)
    self.assertEqual(text, result.text)
    self.assertEqual(len(token_ids), result.tokens)
    if result.token_ids:
      self.assertEqual(token_ids, list(result.token_ids))
    self.assertEqual(
        'length' if len(token_ids) == tokens else 'stop', result.finish_reason)

  def serve(self, *args, resumes=None, **kwargs):
    server = FakeServer(*args, **kwargs).start()
    self.addCleanup(server.stop)
    session = session_on(server, resumes)
    self.addCleanup(session.close)
    return server, session

  def test_chunks_come_as_they_are_made(self):
    for owner, resumes in (('test', 'text'), ('vllm', 'exact')):
      with self.subTest(owner=owner):
        _, session = self.serve(Reply(token_secs=0.01), owned_by=owner)
        self.assertEqual(resumes, session.resumes)
        result, pieces = collect(session, submit(session))
        self.assert_whole(result)
        self.assertEqual(resumes == 'exact', bool(result.token_ids))
        self.assertEqual(len(PROMPT), result.prompt_tokens)
        self.assertGreater(len(pieces), TOKENS / 2)
        self.assertLess(pieces[0].made, result.made - 0.1)

  def test_many_at_once_on_one_thread(self):
    _, session = self.serve(Reply(token_secs=0.005))
    before = threading.active_count()
    names = [submit(session, f'prompt {i}') for i in range(100)]
    during = threading.active_count()
    for name in names:
      self.assert_whole(collect(session, name)[0], name)
    self.assertEqual(before, during)

  def test_connections_are_used_again(self):
    server, session = self.serve()
    for i in range(5):
      generate(session, f'prompt {i}')
      wait_for_tasks(session)
    self.assertEqual(1, server.connections)

  def test_chat(self):
    for owner, resumes in (('test', 'none'), ('vllm', 'text')):
      with self.subTest(owner=owner):
        server, _ = self.serve(owned_by=owner)
        session = session_on(server, endpoint='chat')
        self.addCleanup(session.close)
        self.assertEqual(resumes, session.resumes)
        if resumes == 'text':
          server.script('tell', Reply(at_token=9, then='cut'))
        result = generate(session, 'tell')
        self.assert_whole(result, 'user: tell\nassistant: ')
        self.assertEqual(resumes == 'text', bool(result.retries))

  @settings(max_examples=60, deadline=None)
  @given(
      st.lists(st.integers(0, 6000), max_size=3),
      st.sampled_from(['test', 'sglang', 'vllm']),
      st.sampled_from([None, 1, 7]),
      st.integers(1, 3))
  def test_nothing_is_lost_or_doubled_wherever_it_breaks(
      self, cuts, owner, write_bytes, tokens_per_event):
    server, session = self.owned_by(owner)
    if owner == 'test':
      # Events do not say how many tokens they hold.
      tokens_per_event = 1
    server.reply = Reply(
        write_bytes=write_bytes, tokens_per_event=tokens_per_event)
    server.script(
        PROMPT,
        *(
            Reply(
                cut_at_byte=cut,
                write_bytes=write_bytes,
                tokens_per_event=tokens_per_event) for cut in cuts))
    result = generate(session)
    server.clear_scripts()
    self.assert_whole(result)
    self.assertLessEqual(result.retries, len(cuts))

  def owned_by(self, owner):
    if not hasattr(self, '_shared'):
      self._shared = {}
    if owner not in self._shared:
      self._shared[owner] = self.serve(owned_by=owner)
    return self._shared[owner]

  def shared(self, resumes):
    return self.owned_by({'text': 'test', 'exact': 'vllm'}[resumes])

  def test_a_transcript_is_gone_on_from_wherever_it_ends(self):
    # The text for 'e' ends amid a character.
    for resumes, prompt in itertools.product(('text', 'exact'), (PROMPT, 'e')):
      _, session = self.shared(resumes)
      whole, whole_ids = whole_text(prompt, TOKENS)
      for count in range(1, TOKENS + 1):
        with self.subTest(resumes=resumes, prompt=prompt, count=count):
          ids = whole_ids[:count]
          # Whole characters, while ids may be ahead.
          text = decode(ids).decode(errors='ignore')
          if resumes == 'text' and text.encode() != decode(ids):
            continue
          transcript = Transcript(
              text, tuple(ids) if resumes == 'exact' else (), count)
          result = generate(session, prompt, resume_from=transcript)
          self.assertIsNone(result.error)
          self.assertEqual(whole, text + result.text)
          self.assertEqual(TOKENS, count + result.tokens)

  def test_a_stop_string_ends_the_text_also_across_a_break(self):
    # Of several tokens, so that it is cut by most breaks.
    stop = WHOLE[40:52]
    end = WHOLE.index(stop)
    for resumes in ('text', 'exact'):
      server, session = self.shared(resumes)
      for cut in (None, *range(900, 3000, 150)):
        with self.subTest(resumes=resumes, cut=cut):
          server.script(PROMPT, Reply(cut_at_byte=cut))
          result = generate(session, stop=['never', stop])
          self.assertEqual(WHOLE[:end], result.text)
          self.assertEqual('stop', result.finish_reason)
          self.assertNotIn('stop', server.calls[-1])

  def test_none_ends_in_an_error_after_the_first_token(self):
    server, session = self.serve(resumes='none')
    server.script(PROMPT, Reply(at_token=3, then='cut'))
    result = generate(session)
    self.assertEqual('lost', result.error.partition(':')[0])
    self.assertTrue(WHOLE.startswith(result.text))
    server.script(PROMPT, Reply(at_token=0, then='cut'))
    self.assert_whole(generate(session))

  def test_bursts_of_429_and_500(self):
    server, session = self.serve()
    server.script(
        PROMPT,
        Reply(status=429),
        Reply(status=500),
        Reply(at_token=2, then='cut'),
        Reply(status=503))
    result = generate(session)
    self.assert_whole(result)
    self.assertEqual(4, result.retries)

  def test_retry_after_is_respected(self):
    server, _ = self.serve()
    waits = []

    async def sleep(secs):
      waits.append(secs)

    session = session_on(
        server, backoff=Backoff(), sleep=sleep, rng=random.Random(1))
    self.addCleanup(session.close)
    server.script(
        PROMPT, *[Reply(status=429, headers={'Retry-After': '7'})] * 3)
    self.assert_whole(generate(session))
    self.assertEqual(3, len(waits))
    for wait in waits:
      self.assertTrue(7 <= wait <= 7.7, waits)
    server.script(PROMPT, Reply(status=429, headers={'Retry-After': '3600'}))
    self.assertEqual('rate_limit', generate(session).error.partition(':')[0])

  def test_retries_are_bounded(self):
    server, session = self.serve(Reply(status=500))
    result = generate(session)
    self.assertEqual('server', result.error.partition(':')[0])
    self.assertEqual(FAST.max_retries, result.retries)
    self.assertEqual(FAST.max_retries + 1, len(server.calls))

  def test_the_failure_of_an_attempt_that_is_repeated(self):
    server, _ = self.serve()
    session = session_on(server, backoff=Backoff(10**6, 0.01, 0.01))
    self.addCleanup(session.close)
    self.assertIsNone(session.last_failure(PROMPT))
    server.script(PROMPT, *[Reply(status=503)] * 1000)
    name = submit(session)
    while session.last_failure(name) is None:
      self.assertIsNone(session.poll(name, timeout=0.01))
    self.assertRegex(session.last_failure(name), '^server: .*503')
    session.cancel(name)
    self.assertIsNone(session.last_failure(name))

  def test_progress_is_a_new_start_for_retries(self):
    server, session = self.serve(Reply(at_token=2, then='cut'))
    result = generate(session)
    self.assert_whole(result)
    self.assertGreater(result.retries, FAST.max_retries)
    self.assertGreaterEqual(len(server.calls), result.retries)

  def test_what_is_no_stream_of_completions(self):
    endless = b'data: ' + b'x' * 2000
    cases = {
        'truncated': Reply(at_token=3, then='end'),
        'malformed': Reply(at_token=3, then=b'data: {"choices": [{"te\n\n'),
        'server': Reply(
            at_token=3, then=b'data: {"error": {"message": "bad"}}\n\n'),
        'malformed ': Reply(at_token=3, then=endless),
        'server ': Reply(
            body=b'{"error": {"message": "no such thing"}}',
            headers={'content-type': 'application/json'}),
        'malformed  ': Reply(body=b'<html>'),
        'invalid': Reply(status=400),
        'server  ': Reply(status=401),
        'malformed   ': Reply(body=b'x' * 20000, status=500),
    }
    for kind, reply in cases.items():
      with self.subTest(kind=kind, reply=reply):
        server = FakeServer(reply).start()
        session = session_on(
            server,
            'none',
            limits=ServerLimits(max_event_bytes=1000, max_body_bytes=10000))
        result = generate(session)
        session.close()
        server.stop()
        self.assertEqual(kind.strip(), result.error.partition(':')[0])
        self.assertEqual('error', result.finish_reason)
        self.assertTrue(WHOLE.startswith(result.text))
        self.assertFalse(result.is_lost)

  def test_a_truncated_stream_is_gone_on_from(self):
    server, session = self.serve()
    server.script(PROMPT, Reply(at_token=5, then='end'))
    result = generate(session)
    self.assert_whole(result)
    self.assertEqual(1, result.retries)

  def test_an_answer_that_is_no_stream_is_taken(self):
    _, session = self.serve(
        Reply(
            body=b'{"choices": [{"text": "all", "finish_reason": "stop"}],'
            b'"usage": {"prompt_tokens": 3, "completion_tokens": 2}}'))
    result = generate(session)
    self.assertEqual(('all', 'stop', 2, 3),
                     (
                         result.text,
                         result.finish_reason,
                         result.tokens,
                         result.prompt_tokens))

  def test_a_break_after_the_finish_reason_loses_nothing(self):
    # Before the usage, which is known to be not there then.
    server, session = self.serve()
    server.script(PROMPT, Reply(cut_before_usage=True))
    result = generate(session)
    self.assert_whole(result)
    self.assertEqual((0, None), (result.retries, result.prompt_tokens))

  def test_a_server_that_hangs(self):
    server, _ = self.serve()
    session = session_on(server, limits=ServerLimits(read_timeout_secs=0.2))
    self.addCleanup(session.close)
    server.script(PROMPT, Reply(at_token=4, then='hang'))
    result = generate(session)
    self.assert_whole(result)
    self.assertEqual(1, result.retries)
    server.reply = Reply(at_token=0, then='hang')
    self.assertEqual('timeout', generate(session).error.partition(':')[0])

  def test_cancel_stops_the_server(self):
    server, session = self.serve(Reply(token_secs=0.01))
    name = submit(session, max_tokens=10000)
    other = submit(session, 'another')
    while session.poll(name, 1) is None:
      pass
    session.cancel(name)
    self.assertFalse(session.knows(name))
    self.assert_whole(collect(session, other)[0], 'another')
    self.assertEqual(1, server.cancelled)
    tokens = server.tokens
    time.sleep(0.1)
    self.assertEqual(tokens, server.tokens)

  def test_an_id_can_be_used_again_after_a_cancel(self):
    server, session = self.serve(Reply(token_secs=0.001))
    for i in range(30):
      name = submit(session, f'prompt {i}', name='same')
      session.poll(name, 0.01)
      session.cancel(name)
    self.assert_whole(
        collect(session, submit(session, 'last', name='same'))[0], 'last')

  def test_what_a_cancelled_call_still_makes_is_dropped(self):
    # As if the cancellation had not come through to its task yet.
    server, session = self.serve()
    server.script('old', Reply(at_token=0, then='hang'))
    name = submit(session, 'old', name='same')
    old = session._calls[name]
    session.cancel(name)
    submit(session, 'new', name='same')
    session._push_for(old, Delta('old'))
    self.assert_whole(collect(session, name)[0], 'new')

  def test_a_server_that_is_killed_and_started_again(self):
    server, _ = self.serve(Reply(token_secs=0.02))
    session = session_on(server, backoff=Backoff(initial_secs=0.2))
    self.addCleanup(session.close)
    names = [submit(session, f'prompt {i}') for i in range(8)]
    while session.poll(names[0], 1) is None:
      pass
    first = server.tokens
    server.stop()
    server.start()
    results = [collect(session, name)[0] for name in names[1:]]
    for name, result in zip(names[1:], results):
      self.assert_whole(result, name)
      self.assertGreater(result.retries, 0)
    self.assertGreater(first, 0)

  def test_a_session_waits_for_a_server_that_is_being_started(self):
    server = FakeServer(owned_by='vllm').start()
    server.stop()
    later = threading.Timer(0.5, server.start)
    later.start()
    self.addCleanup(server.stop)
    session = session_on(server, backoff=Backoff(20, initial_secs=0.1))
    self.addCleanup(session.close)
    later.join()
    self.assertEqual(session.resumes, 'exact')

  def test_a_server_that_cannot_be_reached(self):
    server = FakeServer().start()
    server.stop()
    with self.assertRaisesRegex(RuntimeError, f'{server.port}/v1 .*connection'):
      session_on(server, backoff=Backoff(2, initial_secs=0.01))
    self.assertNotIn(
        'openai-session', {thread.name
                           for thread in threading.enumerate()})

  def test_one_poisoned_prompt_among_good_ones(self):
    server, session = self.serve()
    server.script('poison', *[Reply(status=500)] * 100)
    names = [submit(session, f'prompt {i}') for i in range(10)]
    bad = submit(session, 'poison')
    self.assertEqual('error', collect(session, bad)[0].finish_reason)
    for name in names:
      result = collect(session, name)[0]
      self.assert_whole(result, name)
      self.assertEqual(0, result.retries)

  def test_prompts_and_arguments_that_cannot_be_taken(self):
    server, session = self.serve()
    for prompt in ('', [], 7, ['text'], [-1]):
      session.submit(Request('bad', prompt))
      result, _ = collect(session, 'bad')
      self.assertEqual('invalid', result.error.partition(':')[0])
    session.submit(Request('bad', 'text', {'top_k': 3}))
    self.assertIn("'top_k'", collect(session, 'bad')[0].error)
    self.assertEqual(0, len(server.calls))

  def test_zero_tokens_need_no_server(self):
    server, session = self.serve()
    result = generate(session, max_tokens=0)
    self.assertEqual(('length', 0, ''),
                     (result.finish_reason, result.tokens, result.text))
    self.assertEqual(0, len(server.calls))

  def test_closing_ends_what_is_in_flight(self):
    server, session = self.serve(Reply(token_secs=0.01))
    name = submit(session, max_tokens=10000)
    while session.poll(name, 1) is None:
      pass
    session.close()
    result, _ = collect(session, name)
    self.assertTrue(result.is_lost)
    self.assertFalse(session.is_alive)
    self.assertTrue(generate(session, 'later').is_lost)
    session.close()

  def test_a_key_is_sent_and_never_shown(self):
    key = 'sk-never-shown'
    server, _ = self.serve(
        Reply(
            status=400, body=b'{"error": {"message": "sk-never-shown!"}}'))
    session = session_on(server, api_key=key, key_name='MY_KEY')
    self.addCleanup(session.close)
    with self.assertLogs(level='DEBUG') as logs:
      logging.getLogger().debug('one line at least')
      result = generate(session)
    self.assertEqual(f'bearer {key}', server.headers[-1]['authorization'])
    self.assertNotIn(key, result.error)
    self.assertIn('***', result.error)
    self.assertNotIn(key, repr(session) + '\n'.join(logs.output))
    server.reply = Reply(status=401, body=b'sk-never')
    error = generate(session).error
    self.assertIn('MY_KEY', error)
    self.assertNotIn('sk-', error)


if __name__ == '__main__':
  unittest.main()
