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

"""Tests for the parts of OpenAI-compatible sessions that make no calls."""

import unittest

from hypothesis import given
from hypothesis import strategies as st

from apache_beam.ml.inference.iterative.engines.openai import arguments as openai_arguments
from apache_beam.ml.inference.iterative.engines.openai import protocol as openai_protocol
from apache_beam.ml.inference.iterative.engines.openai.failures import OPTIONAL_FIELDS
from apache_beam.ml.inference.iterative.engines.openai.failures import CallFailed
from apache_beam.ml.inference.iterative.engines.openai.failures import failure_of
from apache_beam.ml.inference.iterative.session import Transcript

KINDS = ('malformed', 'server', 'invalid', 'rate_limit', 'unsupported')


class ProtocolTest(unittest.TestCase):
  def test_arguments_are_checked(self):
    good = {
        'max_tokens': 3,
        'temperature': 0,
        'top_p': 0.5,
        'stop': ['x'],
        'seed': 1,
        'logit_bias': {
            '1': 2
        },
        'user': 'me',
        'extra_body': {
            'top_k': 3
        }
    }
    openai_arguments.check_args('completions', good)
    openai_arguments.check_args('chat', {'max_completion_tokens': 3, **good})
    for name, value, error in (
        ('top_k', 3, ValueError), ('n', 2, ValueError),
        ('max_completion_tokens', 3, ValueError),
        ('max_tokens', -1, ValueError), ('max_tokens', 1.5, TypeError),
        ('temperature', 2.5, ValueError), ('temperature', 'hot', TypeError),
        ('top_p', float('nan'), ValueError), ('stop', '', ValueError),
        ('stop', [3], TypeError), ('seed', 'x', TypeError),
        ('logit_bias', 1, TypeError), ('user', 1, TypeError),
        ('extra_body', 1, TypeError), ('extra_body', {'n': 2}, ValueError),
        ('extra_body', {'extra_body': {}}, ValueError),
        ('extra_body', {'return_token_ids': False}, ValueError)):
      with self.subTest(name=name, value=value):
        with self.assertRaisesRegex(error, name):
          openai_arguments.check_args('completions', {name: value})
    # What it holds is checked too.
    with self.assertRaisesRegex(ValueError, 'top_p=2 must be'):
      openai_arguments.check_args('chat', {'extra_body': {'top_p': 2}})

  def test_bodies_go_on_from_a_transcript(self):
    body = openai_protocol.request_body
    args = {'max_tokens': 9, 'stop': 'x', 'extra_body': {'top_k': 1}}
    before = Transcript('def', (), 4)
    self.assertEqual({
        'prompt': 'abcdef',
        'max_tokens': 5,
        'top_k': 1,
        'seed': 2,
        'stream_options': {
            'include_usage': True
        }
    },
                     body('completions', 'abc', args, before, seed=2))
    ids = body('completions', [1, 2], args, Transcript('def', (3, 4), 2))
    self.assertEqual([1, 2, 3, 4], ids['prompt'])
    chat = body('chat', 'hi', {'max_completion_tokens': 9}, before)
    self.assertEqual([{
        'role': 'user', 'content': 'hi'
    }, {
        'role': 'assistant', 'content': 'def'
    }],
                     chat['messages'])
    self.assertEqual((5, True, False),
                     (
                         chat['max_completion_tokens'],
                         chat['continue_final_message'],
                         chat['add_generation_prompt']))
    # As many tokens as there were before count for it too.
    for least, rest in ((9, 5), (3, 0)):
      least = body('chat', 'hi', {'extra_body': {'min_tokens': least}}, before)
      self.assertEqual(rest, least['min_tokens'])
    self.assertNotIn('max_tokens', body('chat', 'hi', {}, Transcript()))
    self.assertEqual(
        16, body('completions', 'hi', {}, Transcript())['max_tokens'])

  def test_optional_fields_are_left_out(self):
    def body(*optional):
      return openai_protocol.request_body(
          'completions', 'hi', {}, Transcript(), 3, optional)

    self.assertEqual({'prompt': 'hi', 'max_tokens': 16}, body())
    everything = body(*OPTIONAL_FIELDS)
    self.assertEqual({
        'include_usage': True, 'continuous_usage_stats': True
    },
                     everything['stream_options'])
    self.assertEqual((3, True),
                     (everything['seed'], everything['return_token_ids']))

  def test_what_follows_a_grammar_is_known(self):
    schema = {'type': 'json_schema', 'json_schema': {}}
    for extra in ({'response_format': schema}, {'guided_regex': '[0-9]+'},
                  {'structured_outputs': {'choice': ['a']}
                   }, {'tools': [{}]}, {'grammar': 'root ::= "a"'}):
      self.assertTrue(openai_arguments.is_constrained({'extra_body': extra}))
    for extra in ({}, {'top_k': 3}, {'response_format': {'type': 'text'}},
                  {'tools': []}):
      self.assertFalse(openai_arguments.is_constrained({'extra_body': extra}))
    self.assertFalse(openai_arguments.is_constrained({}))

  def test_events_are_read(self):
    def read(**choice):
      return openai_protocol.read_event({'choices': [choice]})

    self.assertEqual(('a', 1), (read(text='a').text, read(text='a').tokens))
    # It may be a part of a character, or nothing.
    self.assertEqual(0, read(text='').tokens)
    self.assertEqual(3, read(text=' a b c').tokens)
    self.assertEqual('b', read(delta={'content': 'b'}).text)
    self.assertEqual((5, 6), read(text='a', token_ids=[5, 6]).token_ids)

  def test_finish_reasons(self):
    # OpenAI's, Together's, watsonx's, Anthropic's, Google's, Cohere's, LM
    # Studio's, Mistral's, Z.ai's, DeepSeek's, vLLM's, and one that nobody has.
    meanings = {
        'stop': (
            'stop',
            'eos',
            'eos_token',
            'end_turn',
            'stop_sequence',
            'STOP',
            'COMPLETE',
            'FinishReason.STOP',
            'FINISH_REASON_STOP',
            'eosFound', {
                'type': 'stop', 'matched': 2
            }),
        'length': (
            'length',
            'max_tokens',
            'MAX_TOKENS',
            'max_output_tokens',
            'model_length',
            'model_context_window_exceeded',
            'maxPredictedTokensReached',
            'contextLengthReached'),
        'error': (
            'content_filter',
            'SAFETY',
            'RECITATION',
            'sensitive',
            'network_error',
            'insufficient_system_resource',
            'abort',
            'error',
            'tool_calls',
            'function_call',
            'pause_turn',
            'zzz',
            7),
        None: (None, '', 'null'),
    }
    for meaning, reasons in meanings.items():
      for reason in reasons:
        with self.subTest(reason=reason):
          event = openai_protocol.read_event(
              {'choices': [{
                  'text': 'half', 'finish_reason': reason
              }]})
          self.assertEqual(('half', meaning), (event.text, event.finish_reason))
          self.assertEqual(meaning == 'error', event.error is not None)
          if meaning == 'error' and reason not in ('tool_calls',
                                                   'function_call'):
            self.assertIn(repr(reason), event.error.message)

  @given(
      st.binary() | st.recursive(
          st.none() | st.integers()
          | st.text(), lambda inner: st.lists(inner) | st.dictionaries(
              st.sampled_from([
                  'choices', 'text', 'delta', 'content', 'tool_calls',
                  'finish_reason', 'type', 'usage', 'x_groq', 'error', 'detail',
                  'message'
              ]), inner)))
  def test_anything_is_an_event_or_a_failed_call(self, data):
    try:
      event = openai_protocol.read_event(data)
      self.assertIsInstance(event.text, str)
      if event.failed is not None:
        self.assertIn(failure_of(event.failed).kind, KINDS)
    except CallFailed as e:
      self.assertIn(e.kind, KINDS)


if __name__ == '__main__':
  unittest.main()
