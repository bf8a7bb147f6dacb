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

"""A job whose worker is killed: it fails loudly, and a new one goes on."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
from tools.layout import here

_MODEL = here().build / 'models' / 'SmolLM2-135M-Instruct'
_TOKENS = 40
_PROMPTS = {
    'sea': 'The sea is',
    'cat': 'My cat said that',
    'moon': 'On the moon there',
}


def _command(prism: Path, folder: Path) -> list[str]:
  return [
      sys.executable,
      *('-m', 'apache_beam.examples.inference.iterative_long_generation'),
      f'--input={folder / "prompts.jsonl"}',
      f'--output={folder / "texts.jsonl"}',
      f'--keep={folder / "kept"}',
      f'--model={_MODEL}',
      f'--max_tokens={_TOKENS}',
      '--experiments=iterative_inference',
      '--runner=PrismRunner',
      f'--prism_location={prism}',
      # The worker is a process of its own, which can be killed.
      '--experiments=use_loopback_process_worker=true',
  ]


# Prism's worker is the `python` that is found first.
_ENVIRONMENT = {
    **os.environ,
    'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}',
}


def _kept(folder: Path) -> dict[tuple[str, int], tuple[list[int], str | None]]:
  """Token ids and finish reason of the chunks on disk, by text and index."""
  rows = [
      json.loads(line) for path in (folder / 'kept').glob('*.jsonl')
      for line in path.read_text().splitlines(keepends=True)
      if line.endswith('\n')
  ]
  return {(row['id'], row['index']): (row['token_ids'], row['finish_reason'])
          for row in rows}


def _kill_worker_amid(job: subprocess.Popen, folder: Path) -> None:
  """Kills the worker when each text has begun and none is done."""
  while len({key for key, _ in _kept(folder)}) < len(_PROMPTS):
    assert job.poll() is None, job.stdout.read()
    time.sleep(0.02)
  workers = [
      child for child in psutil.Process(job.pid).children(recursive=True)
      if any('import SdkHarness' in part for part in child.cmdline())
  ]
  assert workers
  for worker in workers:
    worker.kill()


def test_a_new_job_goes_on_where_the_killed_one_was(
    prism: Path, tmp_path: Path):
  rows = [{'id': key, 'prompt': text} for key, text in _PROMPTS.items()]
  (tmp_path / 'prompts.jsonl').write_text(
      ''.join(json.dumps(row) + '\n' for row in rows))
  command = _command(prism, tmp_path)
  with subprocess.Popen(command,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        env=_ENVIRONMENT,
                        text=True) as job:
    _kill_worker_amid(job, tmp_path)
    printed, _ = job.communicate()
  assert job.returncode != 0, printed
  before = _kept(tmp_path)
  assert {reason for _, reason in before.values()} == {None}

  again = subprocess.run(
      command,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      env=_ENVIRONMENT,
      text=True,
      check=False)
  assert again.returncode == 0, again.stdout
  assert '0 texts are finished, 3 go on, 0 start.' in again.stdout
  after = _kept(tmp_path)
  # No chunk was made anew and none is missing; a text may end by itself. What
  # was kept after a chunk that was not is made again.
  whole = {(key, index): chunk
           for (key, index), chunk in before.items()
           if all((key, i) in before for i in range(index))}
  assert whole.keys() >= {(key, 0) for key in _PROMPTS}
  assert {place: after[place] for place in whole} == whole
  for key in _PROMPTS:
    chunks = [after[place] for place in sorted(after) if place[0] == key]
    assert [place for place in sorted(after) if place[0] == key
            ] == [(key, index) for index in range(len(chunks))]
    *others, reason = [reason for _, reason in chunks]
    assert others == [None] * len(others)
    tokens = sum(len(ids) for ids, _ in chunks)
    assert reason == 'length' and tokens == _TOKENS or (
        reason == 'stop' and tokens <= _TOKENS)
  texts = [
      json.loads(line)
      for line in (tmp_path / 'texts.jsonl').read_text().splitlines()
  ]
  assert all(row['is_finished'] and row['text'] for row in texts)

  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert '3 texts are finished, 0 go on, 0 start.' in done.stdout
  assert _kept(tmp_path) == after
