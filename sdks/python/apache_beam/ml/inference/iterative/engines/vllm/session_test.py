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

"""Tests for iterative inference with the vLLM handlers."""

import pickle
import unittest
from unittest import mock

import apache_beam as beam
from apache_beam.ml.inference.base import KeyedModelHandler
from apache_beam.ml.inference.base import RunInference
from apache_beam.ml.inference.iterative import registry
from apache_beam.ml.inference.iterative.engines.openai.backoff import Backoff
from apache_beam.ml.inference.iterative.engines.vllm import arguments as vllm_arguments
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.ml.inference.iterative.session import Delta
from apache_beam.ml.inference.iterative.session import Request
from apache_beam.ml.inference.iterative.session import Transcript
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.inference.language import whole_text
from apache_beam.testing.inference.sse_server import FakeServer
from apache_beam.testing.inference.sse_server import Reply
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to

try:
  from apache_beam.ml.inference import vllm_inference
  from apache_beam.ml.inference.iterative.engines.vllm import session as vllm_session
except (ImportError, AttributeError):
  # Other tests put a mock in the place of a missing openai.
  raise unittest.SkipTest('openai is not installed.')


def build(handler, inference_args, **kwargs):
  """Builds a pipeline that is not run."""
  p = beam.Pipeline(
      options=PipelineOptions(['--experiments=iterative_inference']))
  _ = p | beam.Create(['a']) | 'Infer' >> RunInference(
      handler, inference_args=inference_args, **kwargs)


class ServerProcess:
  """Stands in for vLLM's process."""
  def __init__(self, reply):
    self.server = FakeServer(reply, owned_by='vllm').start()
    self.code = None

  def poll(self):
    return self.code

  def terminate(self):
    if self.code is None:
      self.code = 0
      self.server.stop()

  kill = terminate

  def wait(self, timeout=None):
    return self.code


class VLLMSessionTest(unittest.TestCase):
  def setUp(self):
    self.processes = []
    self.commands = []
    self.reply = Reply(token_secs=0.01)

    def start_process(command):
      self.commands.append(command)
      self.processes.append(ServerProcess(self.reply))
      return self.processes[-1], self.processes[-1].server.port

    patch = mock.patch.object(vllm_inference, 'start_process', start_process)
    patch.start()
    self.addCleanup(patch.stop)
    self.addCleanup(lambda: [process.terminate() for process in self.processes])

  def test_a_session_that_cannot_be_opened_says_why_and_lets_go_once(self):
    shared = mock.Mock()
    gone = shared.acquire.return_value
    with FakeServer() as server:
      gone.get_server_port.return_value = server.port
    with mock.patch.object(vllm_session, 'Backoff', lambda **_: Backoff(0)):
      with self.assertRaisesRegex(RuntimeError, 'does not answer: connection'):
        vllm_session.VLLMSession(shared, 'test', 'completions')
    shared.release.assert_called_once_with(gone)
    shared.release.reset_mock()
    gone.check_connectivity.side_effect = RuntimeError('no GPU')
    with self.assertRaisesRegex(RuntimeError, 'no GPU'):
      vllm_session.VLLMSession(shared, 'test', 'completions')
    shared.release.assert_called_once_with(gone)

  def test_chunks_in_a_pipeline_from_the_server_of_the_handler(self):
    prompts = [f'prompt {i}' for i in range(5)]
    handler = vllm_inference.VLLMCompletionsModelHandler(
        'test', {'max-model-len': '512'})
    with TestPipeline(
        options=PipelineOptions(['--experiments=iterative_inference'])) as p:
      texts = (
          p
          | beam.Create(prompts)
          | RunInference(
              handler,
              inference_args={'max_tokens': 9},
              iterative=IterativeOptions(chunk_tokens=2))
          | beam.GroupBy(lambda chunk: chunk.request_id)
          | beam.MapTuple(
              lambda _, chunks: ''.join(
                  chunk.text
                  for chunk in sorted(chunks, key=lambda chunk: chunk.index))))
      assert_that(
          texts, equal_to([whole_text(prompt, 9)[0] for prompt in prompts]))
    self.assertEqual(1, len(self.commands))
    self.assertIn('--max-model-len', self.commands[0])

  def test_processes_share_a_server_until_the_last_session_is_closed(self):
    handler = vllm_inference.VLLMCompletionsModelHandler('test')
    sessions = [
        pickle.loads(pickle.dumps(handler)).open_session() for _ in range(2)
    ]
    self.assertEqual(1, len(self.processes))
    self.assertEqual('exact', sessions[0].resumes)
    sessions[0].close()
    self.assertIsNone(self.processes[0].code)
    sessions[1].close()
    self.assertEqual(0, self.processes[0].code)

  def test_a_server_that_is_not_reached_is_released_once_with_the_reason(self):
    released = []

    class Shared:
      def acquire(self):
        return self

      def release(self, server):
        released.append(server)

      def check_connectivity(self):
        pass

      def get_server_port(self):
        server = FakeServer().start()
        server.stop()
        return server.port

    shared = Shared()
    with mock.patch.object(
        vllm_session,
        'Backoff', lambda max_retries: Backoff(max_retries, initial_secs=0.01)):
      with self.assertRaisesRegex(RuntimeError, 'does not answer: connection'):
        vllm_session.VLLMSession(shared, 'test', 'completions')
    self.assertEqual(released, [shared])
    shared.check_connectivity = mock.Mock(side_effect=OSError('no such port'))
    with self.assertRaisesRegex(OSError, 'no such port'):
      vllm_session.VLLMSession(shared, 'test', 'completions')
    self.assertEqual(released, [shared, shared])

  def test_a_server_that_dies_is_started_again_and_texts_gone_on_from(self):
    handler = vllm_inference.VLLMCompletionsModelHandler('test')
    lease = registry.acquire('vllm', handler.open_session)
    self.addCleanup(lease.release)
    request = Request('one', 'hello', {'max_tokens': 24})
    whole = Delta()
    lease.session().submit(request)
    while whole.tokens < 3:
      whole += lease.session().poll('one', timeout=10) or Delta()
    session = lease.session()
    self.processes[0].terminate()
    while whole.finish_reason is None:
      whole += session.poll('one', timeout=10) or Delta()
    self.assertTrue(whole.is_lost)
    self.assertFalse(session.is_alive)
    lease.session().submit(
        request, Transcript(whole.text, whole.token_ids, whole.tokens))
    rest = Delta()
    while rest.finish_reason is None:
      rest += lease.session().poll('one', timeout=10) or Delta()
    self.assertEqual(2, len(self.processes))
    text, token_ids = whole_text('hello', 24)
    self.assertEqual((text, 'length'),
                     (whole.text + rest.text, rest.finish_reason))
    self.assertEqual(token_ids, [*whole.token_ids, *rest.token_ids])
    # By token ids, not by text.
    self.assertIsInstance(self.processes[1].server.calls[0]['prompt'], list)

  def test_chat_takes_messages(self):
    handler = vllm_inference.VLLMChatModelHandler('test')
    message = vllm_inference.OpenAIChatMessage('user', 'tell')
    prompt = handler.prompt_of([message])
    self.assertEqual([{'role': 'user', 'content': 'tell'}], prompt)
    session = handler.open_session()
    self.addCleanup(session.close)
    self.assertEqual('text', session.resumes)
    session.submit(Request('one', prompt, {'max_tokens': 8}))
    whole = Delta()
    while whole.finish_reason is None:
      whole += session.poll('one', timeout=10) or Delta()
    text, token_ids = whole_text('user: tell\nassistant: ', 8)
    self.assertEqual((text, token_ids), (whole.text, list(whole.token_ids)))
    for prompt, message in (([], 'empty'), (['tell'], 'role'), ([None], 'role')):
      with self.assertRaisesRegex(ValueError, message):
        handler.prompt_of(prompt)

  def test_arguments_that_vllm_does_not_take_are_refused_when_built(self):
    completions = vllm_inference.VLLMCompletionsModelHandler('test')
    chat = vllm_inference.VLLMChatModelHandler('test')
    keyed = KeyedModelHandler(completions).with_preprocess_fn(lambda x: x)
    for handler, args, error in (
        (completions, {'top_k': 3}, "unknown argument 'top_k'.*extra_body"),
        (completions, {'max_completion_tokens': 3}, 'max_completion_tokens'),
        (completions, {'extra_body': {'top_k': -2}}, 'top_k=-2 must be'),
        (keyed, {'max_token': 3}, "unknown argument 'max_token'"),
        (chat, {'temperature': 2.5}, 'temperature=2.5 must be from 0 to 2'),
    ):
      with self.subTest(args=args):
        with self.assertRaisesRegex(ValueError, f'^Infer: .*{error}'):
          build(handler, args, iterative=IterativeOptions())
        # One-shot inference hands them to the server, as before.
        build(handler, args)
    with self.assertRaisesRegex(TypeError, "^Infer: .*temperature='hot'"):
      build(chat, {'temperature': 'hot'}, iterative=IterativeOptions())
    build(
        chat, {
            'max_completion_tokens': 3,
            'top_p': 0.9,
            'extra_body': {
                'top_k': 3
            }
        },
        iterative=IterativeOptions())

  def test_sampling_parameters_of_its_own(self):
    good = {
        'top_k': -1,
        'min_p': 0.1,
        'repetition_penalty': 1.1,
        'min_tokens': 3,
        'ignore_eos': True,
        'stop_token_ids': [0],
        'bad_words': ['x'],
        'seed': 3,
        'use_beam_search': False,
        'one_of_a_later_release': 1,
    }
    vllm_arguments.check_args('completions', {'extra_body': good})
    vllm_arguments.check_args('chat', {'extra_body': {'min_tokens': 99}})
    for name, value, error in (
        ('top_k', 1.5, TypeError), ('top_k', -2, ValueError),
        ('min_p', 1.5, ValueError), ('min_p', float('nan'), ValueError),
        ('repetition_penalty', 0, ValueError),
        ('repetition_penalty', float('inf'), ValueError),
        ('min_tokens', -1, ValueError),
        # More than the default of max_tokens.
        ('min_tokens', 17, ValueError),
        ('ignore_eos', 1, TypeError), ('stop_token_ids', 3, TypeError),
        ('allowed_token_ids', ['x'], TypeError), ('bad_words', [''], ValueError),
        ('use_beam_search', True, ValueError),
        ('prompt_logprobs', 1, ValueError), ('top_p', 0, ValueError),
        ('temperature', 3, ValueError), ('seed', 'x', TypeError)):
      with self.subTest(name=name, value=value):
        with self.assertRaisesRegex(error, name):
          vllm_arguments.check_args(
              'completions', {'extra_body': {
                  name: value
              }})


if __name__ == '__main__':
  unittest.main()
