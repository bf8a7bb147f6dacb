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

"""Durable texts on Prism while their server is killed and started again.

`make soak` kills far oftener.
"""

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from tools.layout import here

from apache_beam.testing.inference import language as testing_language
from apache_beam.testing.inference.sse_server import FakeServer
from apache_beam.testing.inference.sse_server import Reply
from apache_beam.utils import subprocess_server

_MODEL = here().build / 'models' / 'SmolLM2-135M-Instruct'
_IS_SOAK = os.environ.get('HYPOTHESIS_PROFILE') == 'soak'
_TOKENS = 48

_PIPELINE = '''
import json, sys
import apache_beam as beam
from apache_beam.ml.inference.base import RunInference
from apache_beam.ml.inference.iterative import IterativeOptions
from apache_beam.ml.inference.openai_inference import Backoff
from apache_beam.ml.inference.openai_inference import OpenAICompletionsModelHandler
from apache_beam.options.pipeline_options import PipelineOptions

out, counted, url, model, tokens, prompts, *flags = sys.argv[1:]


class Append(beam.DoFn):
  def process(self, chunk):
    row = [chunk.request_id, chunk.index, chunk.text, chunk.finish_reason,
           chunk.error]
    with open(out, 'a') as file:
      file.write(json.dumps(row) + '\\n')


def count(request_id, chunks):
  chunks = sorted(chunks, key=lambda chunk: chunk.index)
  return json.dumps([
      request_id, [chunk.index for chunk in chunks],
      ''.join(chunk.text for chunk in chunks), chunks[-1].finish_reason,
      chunks[-1].error, chunks[-1].usage.completion_tokens])


with beam.Pipeline(options=PipelineOptions(flags)) as p:
  chunks = (
      p | beam.Create(json.loads(prompts))
      | RunInference(
          OpenAICompletionsModelHandler(
              url, model, backoff=Backoff(500, initial_secs=0.1, max_secs=0.5)),
          inference_args={'max_tokens': int(tokens)},
          iterative=IterativeOptions(
              mode='durable', request_id_fn=str, max_in_flight=8))
      | beam.Reshuffle())
  chunks | beam.ParDo(Append())
  (chunks | beam.WithKeys(lambda chunk: chunk.request_id) | beam.GroupByKey()
   | beam.MapTuple(count)
   | beam.io.WriteToText(counted, num_shards=1, shard_name_template=''))
'''


def _start(prism, folder: Path, url: str, model: str, prompts: list[str]):
  script = folder / 'pipeline.py'
  script.write_text(_PIPELINE, encoding='utf-8')
  return subprocess.Popen([
      *(sys.executable, script, folder / 'chunks', folder / 'counted'),
      *(url, model, str(_TOKENS), json.dumps(prompts)),
      *('--runner=PrismRunner', f'--prism_location={prism}'),
      '--experiments=iterative_inference'
  ],
                          stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT,
                          text=True)


def _chunks(folder: Path) -> int:
  path = folder / 'chunks'
  return len(path.read_text().splitlines()) if path.exists() else 0


def _wait_for_chunks(job: subprocess.Popen, folder: Path, more: int) -> bool:
  """Waits for so many more chunks; False if the job is done before."""
  enough = _chunks(folder) + more
  while _chunks(folder) < enough:
    if job.poll() is not None:
      return False
    time.sleep(0.02)
  return True


def _counted(job: subprocess.Popen, folder: Path) -> dict:
  """What a combine has seen of each text, once the job is done."""
  printed, _ = job.communicate()
  assert job.returncode == 0, printed
  rows = map(json.loads, (folder / 'counted').read_text().splitlines())
  return {request_id: row for request_id, *row in rows}


@pytest.mark.parametrize('owned_by', ['test', 'vllm'])
def test_a_server_that_is_killed_costs_no_token(
    prism: Path, tmp_path: Path, owned_by: str):
  # Gone on from by text, and by token ids.
  prompts = [f'prompt {n}' for n in range(100 if _IS_SOAK else 16)]
  kills = 20 if _IS_SOAK else 4
  # Slow enough for all kills on a busy machine.
  reply = Reply(token_secs=0.1 if _IS_SOAK else 0.04)
  with FakeServer(reply, owned_by=owned_by) as server:
    job = _start(prism, tmp_path, server.base_url, 'model', prompts)
    for _ in range(kills):
      assert _wait_for_chunks(job, tmp_path, len(prompts) // 10 + 3)
      server.stop()
      time.sleep(0.2)
      server.start()
    texts = _counted(job, tmp_path)
    calls = len(server.calls)
  assert calls > len(prompts)
  expected = {}
  for prompt in prompts:
    text, tokens = testing_language.whole_text(prompt, _TOKENS)
    reason = 'length' if len(tokens) == _TOKENS else 'stop'
    expected[prompt] = [text, reason, None]
  assert {key: row[1:4] for key, row in texts.items()} == expected
  for indices, *_ in texts.values():
    assert indices == list(range(len(indices)))


class _TransformersServe:
  """A real server, as a process that can be killed."""
  def __init__(self):
    self._port, = subprocess_server.pick_port(None)
    self.url = f'http://127.0.0.1:{self._port}'

  def start(self) -> None:
    program = Path(sys.executable).with_name('transformers')
    self._process = subprocess.Popen(
        [program, 'serve', '--port', str(self._port), '--dtype', 'float32'],
        env={
            **os.environ, 'HF_HUB_OFFLINE': '1', 'OMP_NUM_THREADS': '1'
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL)
    while True:
      try:
        urllib.request.urlopen(f'{self.url}/health', timeout=5).close()
        return
      except OSError:
        assert self._process.poll() is None, 'transformers serve ended'
        time.sleep(0.1)

  def kill(self) -> None:
    self._process.kill()
    self._process.wait()


def test_a_real_server_is_killed(prism: Path, tmp_path: Path):
  prompts = ['The sea is', 'My cat said that', 'On the moon there']
  server = _TransformersServe()
  server.start()
  job = _start(prism, tmp_path, f'{server.url}/v1', str(_MODEL), prompts)
  killed = 0
  try:
    for _ in range(5 if _IS_SOAK else 1):
      if not _wait_for_chunks(job, tmp_path, 2):
        break
      server.kill()
      server.start()
      killed += 1
    texts = _counted(job, tmp_path)
  finally:
    server.kill()
  assert killed
  assert sorted(texts) == sorted(prompts)
  # What it writes behind the break may differ, as it reads the text anew.
  for indices, text, reason, error, tokens in texts.values():
    assert indices == list(range(len(indices)))
    assert error is None and text
    assert (reason, tokens) == ('length', _TOKENS) or reason == 'stop'
