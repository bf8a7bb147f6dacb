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

"""Iterative inference on a real vLLM server; `make soak` runs it.

Not collected by pytest: it runs in an environment of its own, by
`python -m tools.vllm_env`.
"""

import asyncio
import collections
import concurrent.futures
import json
import os
import pathlib
import pickle
import re
import tempfile
import threading
import time
import unittest
import urllib.request

import psutil

import apache_beam as beam
from apache_beam.ml.inference import vllm_inference
from apache_beam.ml.inference.base import RunInference
from apache_beam.ml.inference.iterative import Delta
from apache_beam.ml.inference.iterative import IterativeOptions
from apache_beam.ml.inference.iterative import Request
from apache_beam.ml.inference.iterative import Transcript
from apache_beam.ml.inference.vllm_inference import OpenAIChatMessage
from apache_beam.ml.inference.vllm_inference import VLLMChatModelHandler
from apache_beam.ml.inference.vllm_inference import VLLMCompletionsModelHandler
from apache_beam.options.pipeline_options import PipelineOptions

ROOT = pathlib.Path(__file__).resolve().parents[1]
PRISM = ROOT / 'build' / 'bin' / 'prism'
MODEL = str(ROOT / 'build' / 'models' / 'SmolLM2-135M-Instruct')
# Results of one sequence at a time are the same each time only in float32.
SERVER = {
    'enforce-eager': None,
    'max-model-len': '1024',
    'dtype': 'float32',
    'max-num-seqs': '16',
}
PROMPTS = [
    'The capital of France is',
    'Once upon a time there was a',
    'A list of emoji: 😀 🚀 🎉 😀 🚀 🎉 😀 🚀',
    'The three laws of robotics are',
    'Water boils at',
    '2 + 2 =',
]
TOKENS = 32
# So many that a server can be killed while all of them are generated.
LONG_TOKENS = 128


def durable_texts(handler, args, seen, counted):
  """Generates for the prompts on Prism.

  A line of ``seen`` is a chunk as it came out of a shuffle, one of ``counted``
  all chunks of a text, as a GroupByKey has them.
  """
  def append(chunk):
    with open(seen, 'a', encoding='utf-8') as f:
      json.dump([chunk.request_id, chunk.is_last, len(chunk.token_ids)], f)
      f.write('\n')

  def count(request_id, chunks):
    chunks = sorted(chunks, key=lambda chunk: chunk.index)
    last = chunks[-1]
    return json.dumps({
        'request_id': request_id,
        'indices': [chunk.index for chunk in chunks],
        'ends': sum(chunk.is_last for chunk in chunks),
        'text': ''.join(chunk.text for chunk in chunks),
        'token_ids': [t for chunk in chunks for t in chunk.token_ids],
        'finish_reason': last.finish_reason,
        'error': last.error,
        'tokens': last.usage.completion_tokens,
    })

  options = PipelineOptions(
      ['--experiments=iterative_inference', f'--prism_location={PRISM}'],
      runner='PrismRunner')
  with beam.Pipeline(options=options) as p:
    chunks = (
        p | beam.Create(PROMPTS)
        | RunInference(
            handler,
            inference_args=args,
            iterative=IterativeOptions(mode='durable', request_id_fn=str))
        | beam.Reshuffle())
    _ = chunks | 'See' >> beam.Map(append)
    _ = (
        chunks | beam.WithKeys(lambda chunk: chunk.request_id)
        | beam.GroupByKey()
        | beam.MapTuple(count)
        | beam.io.WriteToText(
            str(counted), num_shards=1, shard_name_template=''))


def read_lines(path):
  if not path.exists():
    return []
  return [json.loads(line) for line in path.read_text('utf-8').splitlines()]


def goes_on(names):
  """Whether each text has some chunks, of these names one for each."""
  counts = collections.Counter(names)
  return all(counts[prompt] >= 3 for prompt in PROMPTS)


def finish(session, name):
  whole = Delta()
  while whole.finish_reason is None:
    delta = session.poll(name, timeout=300)
    assert delta is not None, 'nothing came for 300 s'
    whole += delta
  return whole


def kill(process):
  """With its engine, which would outlive it."""
  if process.poll() is None:
    for child in psutil.Process(process.pid).children(recursive=True):
      child.kill()
    process.kill()
    process.wait()


class VLLMSoak(unittest.TestCase):
  @classmethod
  def setUpClass(cls):
    # The server of one-shot inference outlives its pipeline, as upstream.
    cls.processes = []
    start_process = vllm_inference.start_process

    def start(command):
      process, port = start_process(command)
      cls.processes.append(process)
      return process, port

    vllm_inference.start_process = start
    cls.addClassCleanup(lambda: [kill(p) for p in cls.processes])
    cls.handler = VLLMCompletionsModelHandler(MODEL, SERVER)
    cls.session = cls.handler.open_session()
    cls.addClassCleanup(lambda: cls.session.close())
    cls.args = {'max_tokens': TOKENS, 'temperature': 0}

  def tearDown(self):
    self.session.cancel('one')

  def generate(self, prompt, transcript=None, **args):
    self.session.submit(
        Request('one', prompt, {
            **self.args, **args
        }), transcript)
    return finish(self.session, 'one')

  def test_exact_resume_at_every_token(self):
    self.assertEqual('exact', self.session.resumes)
    # Also behind special tokens, which the text does not show.
    args = {'extra_body': {'ignore_eos': True}}
    for prompt in PROMPTS[:3]:
      whole, deltas = Delta(), []
      self.session.submit(Request('one', prompt, {**self.args, **args}))
      while whole.finish_reason is None:
        delta = self.session.poll('one', timeout=300)
        deltas.append(delta)
        whole += delta
      self.assertEqual(whole.tokens, len(whole.token_ids))
      head = Delta()
      for delta in deltas[:-1]:
        head += delta
        if head.tokens >= TOKENS:
          break
        rest = self.generate(
            prompt, Transcript(head.text, head.token_ids, head.tokens), **args)
        with self.subTest(prompt=prompt, tokens=head.tokens):
          self.assertEqual(whole.text, head.text + rest.text)
          self.assertEqual(whole.token_ids, head.token_ids + rest.token_ids)
          self.assertEqual(whole.prompt_tokens, rest.prompt_tokens)

  def test_transcripts_that_end_amid_a_character(self):
    prompt = PROMPTS[2]
    whole = self.generate(prompt)
    self.assertIn('🎉', whole.text)
    for count in range(1, whole.tokens):
      ids = whole.token_ids[:count]
      # The longest text that is certain after so many tokens.
      text = self._text(ids).split('\ufffd')[0]
      rest = self.generate(prompt, Transcript(text, ids, count))
      with self.subTest(count=count):
        self.assertEqual(whole.text, text + rest.text)
        self.assertEqual(whole.token_ids, ids + rest.token_ids)

  def _text(self, ids):
    return asyncio.run_coroutine_threadsafe(
        self.session._client.detokenize(ids), self.session._loop).result()

  def test_one_shot_and_iterative_in_a_pipeline(self):
    wholes = self._run(
        RunInference(self.handler, inference_args=self.args), lambda result:
        (result.example, result.inference.choices[0].text))
    chunks = self._run(
        RunInference(
            self.handler,
            inference_args=self.args,
            iterative=IterativeOptions()), lambda chunk: chunk)
    texts = {}
    for chunk in chunks:
      texts.setdefault(chunk.request_id, []).append(chunk)
    equal = 0
    self.assertEqual(len(PROMPTS), len(texts))
    for parts in texts.values():
      self.assertEqual(list(range(len(parts))), [c.index for c in parts])
      self.assertEqual([True], [c.is_last for c in parts if c.is_last])
      self.assertGreater(len(parts), 2)
      last = parts[-1]
      self.assertIsNone(last.error)
      self.assertLess(last.timings.first, last.timings.total / 2)
      equal += dict(wholes)[last.example] == ''.join(c.text for c in parts)
    print(f'equal to one-shot: {equal} of {len(PROMPTS)} texts')
    self.assertGreaterEqual(equal, len(PROMPTS) / 2)

  def _run(self, inference, function):
    """Everything that comes out for the prompts, in the order it came."""
    with tempfile.TemporaryDirectory() as folder:
      path = os.path.join(folder, 'results')

      def write(result):
        with open(path, 'ab') as f:
          pickle.dump(function(result), f)

      with beam.Pipeline(options=PipelineOptions(
          ['--experiments=iterative_inference'], runner='FnApiRunner')) as p:
        _ = p | beam.Create(PROMPTS) | inference | beam.Map(write)
      results = []
      with open(path, 'rb') as f:
        while f.peek(1):
          results.append(pickle.load(f))
      return results

  def test_cancel_stops_the_server(self):
    self.session.submit(
        Request(
            'long',
            PROMPTS[1],
            {
                'max_tokens': 900,
                'temperature': 0,
                'extra_body': {
                    'ignore_eos': True
                }
            }))
    self.session.poll('long', timeout=300)
    self.assertEqual(1, self._metric('num_requests_running'))
    self.session.cancel('long')
    for _ in range(100):
      if self._metric('num_requests_running') == 0:
        break
      time.sleep(0.1)
    self.assertEqual(0, self._metric('num_requests_running'))
    made = self._metric('generation_tokens_total')
    time.sleep(1)
    self.assertEqual(made, self._metric('generation_tokens_total'))

  def _metric(self, name):
    port = self.session._server.get_server_port()
    with urllib.request.urlopen(f'http://localhost:{port}/metrics') as page:
      text = page.read().decode()
    return float(re.search(rf'^vllm:{name}{{.*}} (\S+)$', text, re.M).group(1))

  def test_a_server_that_is_killed_is_started_again(self):
    whole = self.generate(PROMPTS[0])
    self.session.submit(Request('one', PROMPTS[0], self.args))
    head = self.session.poll('one', timeout=300, ready=lambda d: d.tokens >= 5)
    self._kill()
    while head.finish_reason is None:
      head += self.session.poll('one', timeout=300)
    if head.finish_reason == 'length':
      self.fail('The text was there before the server was killed.')
    self.assertTrue(head.is_lost, head.error)
    self.assertFalse(self.session.is_alive)
    self.session.close()
    type(self).session = self.handler.open_session()
    rest = self.generate(
        PROMPTS[0], Transcript(head.text, head.token_ids, head.tokens))
    self.assertEqual(whole.text, head.text + rest.text)
    self.assertEqual(whole.token_ids, head.token_ids + rest.token_ids)

  def test_a_server_that_is_killed_costs_a_durable_text_no_token(self):
    self.assertTrue(PRISM.exists(), 'Prism is missing: install Go, make build.')
    args = {
        **self.args,
        'max_tokens': LONG_TOKENS,
        'extra_body': {
            'ignore_eos': True, 'skip_special_tokens': False
        }
    }
    wholes = {prompt: self.generate(prompt, **args) for prompt in PROMPTS}
    started = len(self.processes)
    with tempfile.TemporaryDirectory() as folder:
      seen, counted = pathlib.Path(folder, 'seen'), pathlib.Path(folder, 'all')
      is_over = threading.Event()

      def kill_once():
        while not goes_on(name for name, *_ in read_lines(seen)):
          if is_over.wait(0.02):
            self.fail('The texts were there before the server was killed.')
        self._kill()
        return read_lines(seen)

      with concurrent.futures.ThreadPoolExecutor() as threads:
        killer = threads.submit(kill_once)
        try:
          # Here, since Prism is started from the main thread alone.
          durable_texts(self.handler, args, seen, counted)
        finally:
          is_over.set()
        before = killer.result()
      texts = {row['request_id']: row for row in read_lines(counted)}
    # The next first, since the server ends with its last session.
    dead, type(self).session = self.session, self.handler.open_session()
    dead.close()
    self.assertEqual([], [name for name, is_last, _ in before if is_last])
    self.assertEqual(started + 1, len(self.processes))
    self.assertEqual(sorted(PROMPTS), sorted(texts))
    equal = 0
    for prompt, row in texts.items():
      with self.subTest(prompt=prompt):
        self.assertEqual(list(range(len(row['indices']))), row['indices'])
        self.assertEqual((1, 'length', None, LONG_TOKENS, LONG_TOKENS),
                         (
                             row['ends'],
                             row['finish_reason'],
                             row['error'],
                             row['tokens'],
                             len(row['token_ids'])))
        # No token of the text is lost or doubled where it was gone on from.
        self.assertEqual(
            self._text(row['token_ids']).rstrip('\ufffd'),
            row['text'].rstrip('\ufffd'))
        equal += row['text'] == wholes[prompt].text
    # What was seen is not made again.
    made = self._metric('generation_tokens_total')
    kept = sum(tokens for *_, tokens in before)
    print(
        f'killed with {kept} of {LONG_TOKENS * len(PROMPTS)} tokens of '
        f'{len(PROMPTS)} texts seen; {made:.0f} made afterwards; {equal} texts '
        'equal to those of a server that lives')
    self.assertGreater(kept, 0)
    self.assertLessEqual(made, LONG_TOKENS * len(PROMPTS) - kept)
    self.assertGreaterEqual(equal, len(PROMPTS) / 2)

  def _kill(self):
    port = self.session._server.get_server_port()
    kill(next(p for p in self.processes if str(port) in p.args))

  def test_chat_is_gone_on_from_by_text(self):
    handler = VLLMChatModelHandler(MODEL, vllm_server_kwargs=SERVER)
    # On the server that runs already.
    handler._server_tag = self.handler._server_tag
    session = handler.open_session()
    self.addCleanup(session.close)
    self.assertEqual('text', session.resumes)
    prompt = handler.prompt_of(
        [OpenAIChatMessage('user', 'Name three fruits.')])
    session.submit(Request('one', prompt, self.args))
    whole = finish(session, 'one')
    cut = whole.text.index(' ', len(whole.text) // 2)
    session.submit(
        Request('one', prompt, self.args),
        Transcript(whole.text[:cut], (), TOKENS // 2))
    rest = finish(session, 'one')
    self.assertIsNone(rest.error)
    self.assertTrue(
        (whole.text[:cut] + rest.text).startswith(whole.text[:cut + 10]))


if __name__ == '__main__':
  unittest.main(verbosity=2)
