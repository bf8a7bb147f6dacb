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

"""The session on a real server, ``transformers serve`` with SmolLM2."""

import os
import pathlib
import subprocess
import sys
import time
import unittest
import urllib.request

from apache_beam.ml.inference.iterative.session import Delta
from apache_beam.ml.inference.iterative.session import Request
from apache_beam.ml.inference.iterative.session import Transcript
from apache_beam.utils import subprocess_server

try:
  from apache_beam.ml.inference.openai_inference import OpenAIChatModelHandler
  from apache_beam.ml.inference.openai_inference import OpenAICompletionsModelHandler
except ImportError:
  raise unittest.SkipTest('httpx is not installed.')

_NAME = 'SmolLM2-135M-Instruct'
_FOLDERS = [
    parent / 'models' / _NAME for parent in pathlib.Path(__file__).parents
]
_PROGRAM = pathlib.Path(sys.executable).with_name('transformers')
MODEL = next((str(f) for f in _FOLDERS if f.exists()), None)


@unittest.skipIf(
    MODEL is None or not _PROGRAM.exists(),
    f'There is no models/{_NAME} above, or no transformers[serving].')
class TransformersServeTest(unittest.TestCase):
  @classmethod
  def setUpClass(cls):
    port, = subprocess_server.pick_port(None)
    cls.server = subprocess.Popen(
        [str(_PROGRAM), 'serve', '--port', str(port), '--dtype', 'float32'],
        env={
            **os.environ, 'HF_HUB_OFFLINE': '1', 'OMP_NUM_THREADS': '1'
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL)
    cls.addClassCleanup(cls._kill)
    url = f'http://127.0.0.1:{port}'
    for _ in range(600):
      try:
        urllib.request.urlopen(f'{url}/health', timeout=5).close()
        break
      except OSError:
        if cls.server.poll() is not None:
          raise RuntimeError('transformers serve ended') from None
        time.sleep(0.1)
    cls.completions = OpenAICompletionsModelHandler(f'{url}/v1',
                                                    MODEL).open_session()
    cls.addClassCleanup(cls.completions.close)
    cls.chat = OpenAIChatModelHandler(f'{url}/v1', MODEL).open_session()
    cls.addClassCleanup(cls.chat.close)
    # It loads the model with the first call.
    cls.generate(cls.completions, 'Hello', 1)

  @classmethod
  def _kill(cls):
    cls.server.kill()
    cls.server.wait()

  @classmethod
  def generate(cls, session, prompt, tokens, resume_from=None):
    """Returns the whole, and each delta with the time of its arrival."""
    session.submit(Request('one', prompt, {'max_tokens': tokens}), resume_from)
    whole, deltas = Delta(), []
    while whole.finish_reason is None:
      delta = session.poll('one', timeout=60)
      if delta is None:
        raise AssertionError('nothing came for 60 s')
      deltas.append(delta)
      whole += delta
    if whole.error:
      raise AssertionError(whole.error)
    return whole, deltas

  def test_completions_stream_and_are_gone_on_from_by_text(self):
    self.assertEqual('text', self.completions.resumes)
    prompt = 'The capital of France is'
    whole, deltas = self.generate(self.completions, prompt, 10)
    self.assertEqual(('length', 10), (whole.finish_reason, whole.tokens))
    self.assertIn('Paris', whole.text)
    self.assertEqual(5, whole.prompt_tokens)
    # They come one by one, not all at the end.
    self.assertGreater(len(deltas), 4)
    for before, after in zip(deltas, deltas[1:]):
      self.assertLess(before.made, after.made)
    head = deltas[0] + deltas[1]
    rest, _ = self.generate(
        self.completions,
        prompt,
        10,
        Transcript(head.text, (), head.tokens))
    self.assertEqual(whole.text, head.text + rest.text)
    self.assertEqual(10, head.tokens + rest.tokens)

  def test_chat_streams(self):
    self.assertEqual('none', self.chat.resumes)
    whole, deltas = self.generate(
        self.chat, [{'role': 'user', 'content': 'Say hello.'}], 6)
    self.assertEqual(('length', 6), (whole.finish_reason, whole.tokens))
    self.assertTrue(whole.text.strip())
    self.assertGreater(len(deltas), 3)

  def test_cancel_stops_the_server(self):
    self.completions.submit(
        Request('long', 'One, two, three, four,', {'max_tokens': 500}))
    deltas = []
    while len(deltas) < 4:
      delta = self.completions.poll('long', timeout=60)
      if delta is not None:
        deltas.append(delta)
    self.completions.cancel('long')
    # It generates for one call at a time: the next waits for its end.
    token_secs = (deltas[-1].made - deltas[0].started) / sum(
        delta.tokens for delta in deltas)
    start = time.monotonic()
    self.generate(self.completions, 'Hello', 1)
    self.assertLess(time.monotonic() - start, 100 * token_secs)


if __name__ == '__main__':
  unittest.main()
