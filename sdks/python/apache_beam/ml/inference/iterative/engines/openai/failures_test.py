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

"""Tests for what servers say that do not answer a call."""

import unittest

from apache_beam.ml.inference.iterative.engines.openai.api_keys import hide_keys
from apache_beam.ml.inference.iterative.engines.openai.api_keys import is_variable_name
from apache_beam.ml.inference.iterative.engines.openai.failures import failure_of
from apache_beam.ml.inference.iterative.engines.openai.failures import is_failure


class FailuresTest(unittest.TestCase):
  def test_reasons_are_found(self):
    for answer in ({'error': {'message': 'the reason', 'type': 'x'}
                    }, {'error': 'the reason'}, {'detail': 'the reason'},
                   {'detail': [{'loc': ['body', 'prompt'], 'msg': 'the reason'}]
                    }, {'detail': {'error': 'the reason'}},
                   {'object': 'error', 'message': 'the reason',
                    'code': 40303}, [{'error': {'code': 400,
                                                'message': 'the reason'}}],
                   {'error': {'error': {'message': 'the reason'}}
                    }, {'errors': [{'message': 'the reason'}]
                        }, {'error_code': 336003, 'error_msg': 'the reason'},
                   {'error': {'message': 'Provider returned error',
                              'metadata': {'raw': 'the reason'}}},
                   {'type': 'about:blank',
                    'title': 'Bad',
                    'detail': 'the reason'
                    }, {'fault': {'faultstring': 'the reason'}
                        }, {'error': {'no': 'words', 'but': 'the reason'}},
                   b'<html><head><title>the reason</title></head></html>',
                   b'the reason'):
      with self.subTest(answer=answer):
        self.assertIn('the reason', failure_of(answer, 400).message)
        if isinstance(answer, dict) and 'fault' not in answer:
          self.assertTrue(is_failure(answer))

  def test_events_that_are_no_failure(self):
    for event in ({'choices': []}, {'choices': [],
                                    'error': None}, {'choices': [],
                                                     'error': {'message': None,
                                                               'code': None}
                                                     }, {'usage': {}},
                  {'type': 'ping'}, {'id': 'x'}, {'message': {'content': 'x'}}):
      self.assertFalse(is_failure(event), event)

  def test_statuses_are_retried_if_that_may_help(self):
    for status, code, kind, again in (
        (429, None, 'rate_limit', True),
        (429, 'insufficient_quota', 'rate_limit', False),
        (402, None, 'rate_limit', False),
        (500, None, 'server', True), (503, None, 'server', True),
        (408, None, 'server', True), (409, None, 'server', True),
        (501, None, 'server', False), (400, None, 'invalid', False),
        (404, None, 'invalid', False), (401, None, 'server', False),
        (403, None, 'server', False), (302, None, 'server', False),
        # llama.cpp, for a text that is too long.
        (500, 'exceed_context_size_error', 'invalid', False),
        # In a stream, a number, the same as text, and words.
        (None, 429, 'rate_limit', True), (None, '429', 'rate_limit', True),
        (None, 'rate_limit_exceeded', 'rate_limit', True),
        (None, 'RESOURCE_EXHAUSTED', 'rate_limit', True),
        (None, 503, 'server', True), (None, '503', 'server', True),
        (None, 'overloaded_error', 'server', True),
        (None, 'server_error', 'server', True),
        (None, 'UNAVAILABLE', 'server', True),
        (None, 'context_length_exceeded', 'invalid', False),
        (None, 'BadRequestError', 'invalid', False),
        (None, '40303', 'server', False), (None, 50001, 'server', True),
        (None, '1302', 'server', False), (None, None, 'server', False)):
      with self.subTest(status=status, code=code):
        failure = failure_of({'error': {
            'message': 'm', 'code': code
        }},
                             status,
                             3)
        self.assertEqual((kind, again), (failure.kind, failure.is_retriable))
        self.assertIn('m', failure.message)
        self.assertIn(str(status or code or ''), failure.message)

  def test_a_text_that_is_too_long_is_not_sent_again(self):
    for words in ('Context size has been exceeded.',
                  'maximum context length is 8',
                  'the prompt is too long'):
      for status in (500, None):
        error = {'error': {'message': words, 'code': 500}}
        self.assertFalse(failure_of(error, status).is_retriable, words)

  def test_403_is_not_always_a_key(self):
    flagged = {'error': {'code': 403, 'message': 'input was flagged'}}
    for failure in (failure_of(flagged, key_name='KEY'),
                    failure_of(flagged, 403, key_name='KEY')):
      self.assertEqual('403, input was flagged', failure.message)
    self.assertIn('KEY', failure_of(b'', 403, key_name='KEY').message)
    refused = failure_of({'error': 'expired'}, 401, key_name='KEY').message
    self.assertIn('the key in the environment variable KEY: expired', refused)
    self.assertIn('api_key_env', failure_of(b'', 401).message)

  def test_fields_that_are_named(self):
    for answer in ({
        'error': {'message': "property 'stream_options' is unsupported"}
    },
                   {'detail': [{'type': 'extra_forbidden',
                                'loc': ['body', 'stream_options'],
                                'msg': 'Extra inputs are not permitted'}]},
                   {'error': {'message': 'Unknown parameter',
                              'param': 'stream_options'}},
                   b'TypeError: unexpected keyword argument stream_options'):
      self.assertEqual(('stream_options', ), failure_of(answer, 400).named)
    answer = b'stream_options.continuous_usage_stats'
    self.assertEqual('continuous_usage_stats', failure_of(answer).named[0])


class ApiKeysTest(unittest.TestCase):
  # Made up, in the forms of providers.
  KEYS = (
      'hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567',
      'hf_abcdefghijkl',
      'sk-proj-abc123DEF456',
      'sk-cases-1234',
      'gsk_a1B2c3D4e5F6g7H8',
      'r8_AbCd1234',
      'AIzaSyA1234567890abcdefghijklmnopqrstuv',
      'AKIAIOSFODNN7EXAMPLE',
      '0123456789abcdef0123456789abcdef',
      'a0123456789abcdef0123456789abcde',
      'eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc',
      'QWxhZGRpbjpvcGVuIHNlc2FtZQ',
      'xYzAbCqRsTuVwKlMnOp',
      'Bearer abc',
      'a' * 32,
      'my key',
      '',
      '1KEY',
      'schlüssel')

  def test_keys_are_no_names(self):
    for key in self.KEYS:
      self.assertFalse(is_variable_name(key), key)
    for name in ('OPENAI_API_KEY',
                 'HF_TOKEN',
                 'MY_KEY_2',
                 'openai_api_key',
                 'api_key',
                 '_KEY',
                 'AI21_API_KEY',
                 'K8S_TOKEN',
                 'OpenAiKey',
                 'AZURE_OPENAI_KEY1',
                 'SK_KEY',
                 'X',
                 'VLLM__KEY',
                 'MYCOMPANYINTERNALGATEWAY_KEY',
                 'hf_token',
                 'OpenAIKey',
                 'myAPIKey'):
      self.assertTrue(is_variable_name(name), name)

  def test_keys_are_hidden(self):
    for key in (self.KEYS[0], *self.KEYS[2:5]):
      self.assertNotIn(key[4:], hide_keys(f'bad key {key}, try again'))
    self.assertEqual('no *** here', hide_keys('no s3cret here', 's3cret'))
    # OpenAI shows the ends of a key that it refuses.
    text = hide_keys('Incorrect API key provided: abcd1234****wxyz.')
    self.assertEqual('Incorrect API key provided: ***.', text)
    self.assertNotIn('abcdef', hide_keys('bad: abcdef', 'abcdefghijklmnop'))
    self.assertEqual(
        'proxy http://***@host', hide_keys('proxy http://me:pw@host'))
    for text in ('a task-specific error',
                 'hf_hub',
                 'max_tokens_123 is bad',
                 'hf-internal-testing/tiny-random-LlamaForCausalLM',
                 'Missing bearer authentication in header'):
      self.assertEqual(text, hide_keys(text))

  def test_words_that_stand_for_no_key_are_not_hidden(self):
    for key, text in (('x', 'context too long, max 10'),
                      ('ollama', 'try `ollama pull`'),
                      ('EMPTY', 'EMPTY is no model')):
      self.assertEqual(text, hide_keys(text, key))
    # Nor a part of a word, if the key is short.
    self.assertEqual('es3crets', hide_keys('es3crets', 's3cret'))
    self.assertEqual('***', hide_keys('keyabc12345', 'abc12345'))

  def test_names_of_models_are_no_keys(self):
    for name in ('pplx-7b-online',
                 'perplexity/pplx-embed-v1-0.6B',
                 'hf_Qwen2.5-7B',
                 '/srv/fw_weights_v2',
                 'models/hf_model_Q4_K_M.gguf',
                 'r8_model_v1'):
      self.assertEqual(name, hide_keys(name))
    for key in ('hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567',
                'pplx-0123456789abcdef0123456789abcdef'):
      self.assertNotIn('cdef', hide_keys(f'{key} is bad').casefold())


if __name__ == '__main__':
  unittest.main()
