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

"""How durable jobs end on Prism, by themselves and at Ctrl-C.

Their models run in threads of the same process, which abort it if they are cut
off amid a step. `make soak` ends 50 jobs by themselves and 20 at Ctrl-C.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tools.layout import here

_SOAK = os.environ.get('HYPOTHESIS_PROFILE') == 'soak'
_RUNS, _INTERRUPTS = (50, 20) if _SOAK else (2, 3)
_MODEL = here().build / 'models' / 'SmolLM2-135M-Instruct'
_PROMPTS = [f'The sea has {i} colours,' for i in range(6)]
# A generator function that keeps torch busy in a thread of its session.
_BUSY = '''
import torch
from apache_beam.examples.inference import iterative_text_generation as example
from apache_beam.ml.inference.iterative import GeneratorModelHandler
from apache_beam.utils import command_line


def busy(batch, model, args):
  matrix = torch.randn(600, 600)
  for _ in range(args['steps']):
    for _ in range(6):
      matrix = torch.tanh(matrix @ matrix)
    for position in range(len(batch)):
      yield position, 'word '


def make_model_handler(known_args):
  handler = GeneratorModelHandler(str, busy, pads=False)
  return handler, {'steps': known_args.max_tokens}


example.make_model_handler = make_model_handler
command_line.run(example.main)
'''


def _command(handler: str, prism: Path, folder: Path) -> list[str]:
  (folder / 'prompts.txt').write_text('\n'.join(_PROMPTS))
  program = ['-m', 'apache_beam.examples.inference.iterative_text_generation']
  if handler == 'busy':
    script = folder / 'busy.py'
    script.write_text(_BUSY)
    program = [str(script)]
  return [
      sys.executable,
      *program,
      f'--input={folder / "prompts.txt"}',
      f'--output={folder / "chunks.jsonl"}',
      f'--model={_MODEL}',
      '--live',
      '--mode=durable',
      '--max_tokens=48',
      '--experiments=iterative_inference',
      '--runner=PrismRunner',
      f'--prism_location={prism}',
  ]


def _check_output(printed: str) -> None:
  assert 'terminate called' not in printed, printed
  for block in printed.split('Traceback (most recent call last):')[1:]:
    # To the line that names the exception.
    lines = re.split(r'\n(?=\S)', block, maxsplit=1)[0].splitlines()
    assert len(lines) <= 5, printed


@pytest.mark.parametrize('handler', ['hf', 'busy'])
def test_jobs_end_by_themselves(prism: Path, tmp_path: Path, handler: str):
  command = _command(handler, prism, tmp_path)
  for _ in range(_RUNS // 2):
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False)
    assert done.returncode == 0, done.stdout
    _check_output(done.stdout)
    rows = [
        json.loads(line)
        for line in (tmp_path / 'chunks.jsonl').read_text().splitlines()
    ]
    ends = [row for row in rows if row.get('finish_reason')]
    assert sorted(row['prompt'] for row in ends) == sorted(_PROMPTS)
    assert {row['error'] for row in ends} == {None}


@pytest.mark.parametrize('handler', ['hf', 'busy'])
def test_jobs_end_at_an_interrupt(prism: Path, tmp_path: Path, handler: str):
  command = _command(handler, prism, tmp_path)
  delay = random.Random(handler)
  for number in range(-(-_INTERRUPTS // 2)):
    with subprocess.Popen(command,
                          stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT,
                          text=True,
                          start_new_session=True) as job:
      seen = []
      for line in job.stdout:
        seen.append(line)
        # Of its live view, with the first token.
        if re.match(r'The sea has \d colours,: ', line):
          break
      time.sleep(delay.random())
      if number % 2:
        # As `kill -INT` does it; a terminal interrupts the runner as well.
        job.send_signal(signal.SIGINT)
      else:
        os.killpg(job.pid, signal.SIGINT)
      rest, _ = job.communicate(timeout=120)
    printed = ''.join([*seen, rest])
    assert job.returncode == 130, printed
    _check_output(printed)
    assert 'Interrupted.' in printed
