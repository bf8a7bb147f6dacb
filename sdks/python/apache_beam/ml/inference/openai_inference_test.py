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

"""Tests for the handlers of OpenAI-compatible servers."""

import os
import pickle
import tempfile
import unittest
from unittest import mock

from apache_beam.ml.inference.iterative.session import Delta
from apache_beam.ml.inference.iterative.session import Request
from apache_beam.testing.inference.language import whole_text
from apache_beam.testing.inference.sse_server import FakeServer
from apache_beam.testing.inference.sse_server import Reply

try:
  from apache_beam.ml.inference.openai_inference import Backoff
  from apache_beam.ml.inference.openai_inference import OpenAIChatModelHandler
  from apache_beam.ml.inference.openai_inference import OpenAICompletionsModelHandler
  from apache_beam.ml.inference.openai_inference import ServerLimits
except ImportError:
  raise unittest.SkipTest('httpx is not installed.')

import apache_beam as beam
from apache_beam.ml.inference.base import KeyedModelHandler
from apache_beam.ml.inference.base import RunInference
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to


class OpenAIInferenceTest(unittest.TestCase):
  def test_one_shot_in_a_pipeline(self):
    prompts = [f'prompt {i}' for i in range(6)]
    with FakeServer() as server:
      handler = OpenAICompletionsModelHandler(server.base_url, 'test')
      with TestPipeline() as p:
        results = (
            p
            | beam.Create([(i, prompt) for i, prompt in enumerate(prompts)])
            | RunInference(
                KeyedModelHandler(handler), inference_args={'max_tokens': 8})
            | beam.MapTuple(
                lambda key, result:
                (key, result.example, result.inference.text, result.model_id)))
        assert_that(
            results,
            equal_to([(i, prompt, whole_text(prompt, 8)[0], 'test')
                      for i, prompt in enumerate(prompts)]))

  def test_a_failed_batch_is_not_sent_again(self):
    with FakeServer() as server:
      server.script('prompt 3', Reply(status=400))
      handler = OpenAICompletionsModelHandler(
          server.base_url, 'test', min_batch_size=8)
      with TestPipeline(
          options=PipelineOptions(['--experiments=smart_bucketing'])) as p:
        _, other = (
            p
            | beam.Create([None])
            | beam.FlatMap(lambda _: [f'prompt {i}' for i in range(8)])
            | RunInference(handler,
                           inference_args={'max_tokens': 4})
            .with_exception_handling())
        failed = other.failed_inferences | beam.Map(lambda f: len(f[0]))
        assert_that(failed, equal_to([8]))
    self.assertEqual(len({call['prompt'] for call in server.calls}), 8)
    self.assertEqual(len(server.calls), 8)

  def test_chunks_in_a_pipeline_whose_server_fails(self):
    prompts = [f'prompt {i}' for i in range(12)]
    with FakeServer(owned_by='vllm') as server:
      server.script('prompt 1', Reply(at_token=3, then='cut'))
      server.script('prompt 2', Reply(status=500), Reply(cut_at_byte=1000))
      server.script('prompt 3', Reply(status=400))
      handler = OpenAICompletionsModelHandler(
          server.base_url, 'test', backoff=Backoff(initial_secs=0.01))
      with TestPipeline(
          options=PipelineOptions(['--experiments=iterative_inference'])) as p:
        wholes = (
            p
            | beam.Create(prompts)
            | RunInference(
                handler,
                inference_args={'max_tokens': 20},
                iterative=IterativeOptions(chunk_tokens=4))
            | beam.GroupBy(lambda chunk: chunk.request_id)
            | beam.MapTuple(lambda _, chunks: _whole(chunks)))
        expected = [(prompt, *_expected(prompt, 20)) for prompt in prompts]
        expected[3] = ('prompt 3', '', 'error')
        assert_that(wholes, equal_to(expected))

  def test_a_time_limit_does_not_hide_what_failed(self):
    with FakeServer(Reply(status=503)) as server:
      handler = OpenAICompletionsModelHandler(
          server.base_url, 'test', backoff=Backoff(10**6, 0.01, 0.01))
      for mode in ('in_bundle', 'durable'):
        with self.subTest(mode=mode), TestPipeline(
            runner='FnApiRunner',
            options=PipelineOptions(
                ['--experiments=iterative_inference'])) as p:
          errors = (
              p
              | beam.Create(['prompt'])
              | RunInference(
                  handler,
                  iterative=IterativeOptions(mode=mode, request_timeout_secs=1))
              | beam.Map(
                  lambda chunk: 'server: ' in chunk.error and chunk.
                  error[:chunk.error.index('server: ')]))
          assert_that(
              errors,
              equal_to([
                  'timeout: not done 1 s after it was submitted. The last '
                  'attempt failed: '
              ]))

  def test_bad_arguments_are_named(self):
    url = 'http://localhost/v1'
    for handler in (OpenAICompletionsModelHandler, OpenAIChatModelHandler):
      for kwargs, error in (
          ({'base_url': 3}, TypeError),
          ({'base_url': 'ftp://localhost/v1'}, ValueError),
          ({'base_url': 'http://localhost:abc/v1'}, ValueError),
          ({'base_url': 'http://localhost:abc/v1?key=secret'}, ValueError),
          ({'base_url': 'http://localhost/v1 '}, ValueError),
          ({'base_url': 'http://localhost/v1\n'}, ValueError),
          ({'base_url': 'https://me:secret@localhost/v1'}, ValueError),
          ({'base_url': 'https://localhost/v1?key=secret'}, ValueError),
          ({'model': ''}, ValueError), ({'resumes': 'maybe'}, ValueError),
          ({'base_url': 'sk-proj-secret123'}, ValueError),
          ({'base_url': 'https://localhost/v1#secret'}, ValueError),
          ({'model': 'sk-proj-secret123'}, ValueError),
          ({'api_key_env': 'sk-secret'}, ValueError),
          ({'api_key_env': 'hf_secretAbCdEfGh'}, ValueError),
          ({'api_key_env': 'a0secret1b2c3d4e5f6a7b8c'}, ValueError),
          ({'api_key_env': ['secret']}, ValueError),
          ({'limits': 3}, TypeError), ({'backoff': 3}, TypeError)):
        with self.subTest(kwargs=kwargs):
          with self.assertRaisesRegex(error, next(iter(kwargs))) as raised:
            handler(**{'base_url': url, 'model': 'test', **kwargs})
          self.assertNotIn('secret', str(raised.exception))
    with self.assertRaisesRegex(ValueError, 'resumes'):
      OpenAIChatModelHandler(url, 'test', resumes='exact')
    for name in ('connect_timeout_secs', 'max_event_bytes'):
      with self.assertRaisesRegex(ValueError, name):
        ServerLimits(**{name: 0})
    for name in ('max_retries', 'initial_secs'):
      with self.assertRaisesRegex(ValueError, name):
        Backoff(**{name: -1})

  def test_unknown_inference_args_fail_when_the_pipeline_is_built(self):
    handler = OpenAICompletionsModelHandler('http://localhost/v1', 'test')
    with self.assertRaisesRegex(ValueError, "'best_of'"):
      _ = (
          beam.Pipeline()
          | beam.Create(['hello'])
          | RunInference(handler, inference_args={'best_of': 2}))

  def test_the_key_stays_on_the_worker(self):
    handler = OpenAICompletionsModelHandler(
        'http://localhost/v1', 'test', api_key_env='MY_KEY', resumes='text')
    with self.assertRaisesRegex(RuntimeError, 'MY_KEY'):
      handler.open_session()
    with mock.patch.dict(os.environ, {'MY_KEY': 'sk-secret'}):
      session = handler.open_session()
      self.assertNotIn(b'sk-secret', pickle.dumps(handler))
      session.close()
    with mock.patch.dict(os.environ, {'MY_KEY': 'sk-\u00e4\nsecret'}):
      with self.assertRaisesRegex(RuntimeError, 'MY_KEY') as raised:
        handler.open_session()
      self.assertNotIn('secret', str(raised.exception))

  def test_nothing_else_of_the_environment_is_sent(self):
    # What OpenAI's client, and httpx by proxies and netrc, look for.
    with tempfile.TemporaryDirectory() as folder, FakeServer() as server:
      netrc = os.path.join(folder, 'netrc')
      with open(netrc, 'w', encoding='utf-8') as f:
        f.write('default login me password leak\n')
      environment = {
          f'{company}_{name}': 'leak'
          for company in ('OPENAI', 'AZURE_OPENAI')
          for name in (
              'API_KEY', 'ADMIN_KEY', 'ORG_ID', 'PROJECT_ID', 'WEBHOOK_SECRET',
              'AD_TOKEN')
      }
      environment.update({
          'OPENAI_CUSTOM_HEADERS': 'Authorization: Bearer leak\nX-Me: leak',
          'OPENAI_BASE_URL': 'http://leak.example/v1',
          'HTTP_PROXY': 'http://me:leak@127.0.0.1:9',
          'ALL_PROXY': 'http://me:leak@127.0.0.1:9',
          'NO_PROXY': '127.0.0.1',
          'NETRC': netrc,
          'MY_KEY': 'right',
      })
      sent = {
          'host',
          'accept',
          'accept-encoding',
          'connection',
          'user-agent',
          'content-length',
          'content-type'
      }
      with mock.patch.dict(os.environ, environment):
        for key, more in ((None, set()), ('MY_KEY', {'authorization'})):
          handler = OpenAICompletionsModelHandler(
              server.base_url, 'test', api_key_env=key)
          self.assertIsNone(_generate(handler).error)
          headers = server.headers[-1]
          self.assertEqual(sent | more, set(headers))
          self.assertNotIn('leak', str(headers) + str(server.calls))
          if key:
            self.assertEqual('bearer right', headers['authorization'])
        with mock.patch.dict(os.environ, {'NO_PROXY': ''}):
          with self.assertRaisesRegex(RuntimeError, 'connection') as raised:
            OpenAICompletionsModelHandler(
                server.base_url, 'test', backoff=Backoff(0)).open_session()
          self.assertNotIn('leak', str(raised.exception))

  def test_a_key_in_the_arguments_is_refused(self):
    handler = OpenAICompletionsModelHandler('http://localhost/v1', 'test')
    for name in ('api_key', 'Authorization'):
      with self.assertRaisesRegex(ValueError, 'api_key_env') as raised:
        handler.validate_inference_args({'extra_body': {name: 'secret'}})
      self.assertNotIn('secret', str(raised.exception))


def _whole(chunks):
  chunks = sorted(chunks, key=lambda chunk: chunk.index)
  assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
  assert [chunk.is_last for chunk in chunks[:-1]] == [False] * (len(chunks) - 1)
  last = chunks[-1]
  text = ''.join(chunk.text for chunk in chunks)
  return last.example, text, last.finish_reason


def _expected(prompt, tokens):
  text, token_ids = whole_text(prompt, tokens)
  return text, 'length' if len(token_ids) == tokens else 'stop'


def _generate(handler):
  session = handler.open_session()
  try:
    session.submit(Request('one', 'hello', {'max_tokens': 8}))
    result = Delta()
    while result.finish_reason is None:
      result += session.poll('one', timeout=30)
    return result
  finally:
    session.close()


if __name__ == '__main__':
  unittest.main()
