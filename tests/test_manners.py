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

"""How the programs of the series end: at Ctrl-C, and at what is wrong.

Each is started as a user does it, and interrupted when it is at work.
"""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tools.layout import here

_EXAMPLES = 'apache_beam.examples.inference'
_BENCHMARKS = 'apache_beam.testing.benchmarks'
# Against a test that hangs; no time is measured.
_HANGS_SECS = 120
_ITERATIVE = '--experiments=iterative_inference'
_FN_API = '--runner=FnApiRunner'
_GENERATOR = ('--handler=generator', '--max_tokens=500', _ITERATIVE)
_LIVE = r'step\d word0'


def _inputs(folder: Path) -> None:
  words = ' '.join(f'word{i}' for i in range(400))
  prompts = [{'id': i, 'prompt': f'step{i} {words}'} for i in range(4)]
  texts = [{'id': i, 'text': words} for i in range(2000)]
  for name, rows in (('prompts', prompts), ('texts', texts)):
    (folder / f'{name}.jsonl').write_text(
        ''.join(f'{json.dumps(row)}\n' for row in rows))
  # So many that the advisor is at work for seconds.
  (folder / 'trace.csv').write_text(
      'tokens,at\n' +
      ''.join(f'{1 + 37 * i % 500},{i / 50}\n' for i in range(200_000)))


# The name of a program, its arguments, and what its output has when it works;
# None: it prints nothing before it is done.
_PROGRAMS = {
    'generation': (
        f'{_EXAMPLES}.iterative_text_generation',
        ('--input=prompts.jsonl', '--output=o', '--live', _FN_API, *_GENERATOR),
        _LIVE),
    'generation on prism': (
        f'{_EXAMPLES}.iterative_text_generation',
        (
            *('--input=prompts.jsonl', '--output=o', '--live'),
            *('--mode=durable', '--runner=PrismRunner', *_GENERATOR)),
        _LIVE),
    'guardrail': (
        f'{_EXAMPLES}.iterative_guardrail',
        (
            *('--input=prompts.jsonl', '--output=o', '--ban=none'),
            *(_FN_API, *_GENERATOR)),
        None),
    'long generation': (
        f'{_EXAMPLES}.iterative_long_generation',
        (
            *('--input=prompts.jsonl', '--output=o', '--keep=kept'),
            *('--runner=PrismRunner', *_GENERATOR)),
        '0 texts are finished, 0 go on, 4 start.'),
    'embeddings': (
        f'{_EXAMPLES}.bucketed_text_embeddings',
        (
            *('--input=texts.jsonl', '--output=o', _FN_API),
            '--experiments=smart_bucketing'),
        None),
    'page': (
        f'{_EXAMPLES}.iterative_live_page', (_FN_API, _ITERATIVE),
        'Open http://'),
    'page that runs': (
        f'{_EXAMPLES}.iterative_live_page',
        ('--runner=PrismRunner', _ITERATIVE, '--start_at_once'),
        'The page is at'),
    'advisor': (
        'apache_beam.transforms.batching.advisor',
        (
            *('trace.csv', '--column=tokens', '--time_column=at'),
            '--max_wait_secs=5'),
        None),
    'replay': (
        f'{_BENCHMARKS}.batching_replay',
        (
            *('trace.csv', '--column=tokens', '--time_column=at'),
            *('--streaming', '--runner=PrismRunner')),
        '0 of 1 done'),
    'benchmark': (
        f'{_BENCHMARKS}.iterative_inference_benchmark',
        ('--handler=clock', '--rate=1', '--ways', 'durable', _FN_API),
        None),
    'benchmark on prism': (
        f'{_BENCHMARKS}.iterative_inference_benchmark',
        (
            *('--handler=clock', '--rate=1', '--ways', 'durable'),
            '--runner=PrismRunner'),
        None),
    'overhead': (
        f'{_BENCHMARKS}.iterative_inference_overhead',
        ('--prompts=500', _FN_API),
        None),
}


def _wait(is_there: Callable[[], object], program: subprocess.Popen) -> None:
  deadline = time.monotonic() + _HANGS_SECS
  while not is_there():
    assert program.poll() is None and time.monotonic() < deadline, (
        'ended or hung before it was interrupted')
    time.sleep(0.05)


def _handles_interrupts(process: psutil.Process) -> bool:
  """Whether the pair of sockets is there that a signal writes to."""
  return len(process.net_connections('unix')) >= 2


@pytest.fixture(name='folder')
def _folder(prism: Path, tmp_path: Path) -> Path:
  """A folder with inputs, from which programs find Prism by themselves."""
  (tmp_path / 'build' / 'bin').mkdir(parents=True)
  (tmp_path / 'build' / 'bin' / 'prism').symlink_to(prism)
  _inputs(tmp_path)
  return tmp_path


@pytest.mark.parametrize('name', _PROGRAMS)
def test_ctrl_c_is_one_line_and_the_status_of_shells(name: str, folder: Path):
  module, arguments, sign = _PROGRAMS[name]
  files = [folder / 'stdout', folder / 'stderr']
  with (files[0].open('w') as out,
        files[1].open('w') as errors,
        subprocess.Popen([sys.executable, '-m', module, *arguments],
                         cwd=folder,
                         stdout=out,
                         stderr=errors,
                         start_new_session=True) as program):
    process = psutil.Process(program.pid)
    try:
      _wait(lambda: _handles_interrupts(process), program)
      if sign:
        _wait(
            lambda: any(re.search(sign, file.read_text()) for file in files),
            program)
      else:
        time.sleep(1)
      before = files[1].read_text().splitlines()
      started = process.children(recursive=True)
      # As a terminal does it, to all that the program started, and as `kill
      # -INT` does it, to itself.
      for child in started if sorted(_PROGRAMS).index(name) % 2 else ():
        child.send_signal(signal.SIGINT)
      program.send_signal(signal.SIGINT)
      program.wait(_HANGS_SECS)
    finally:
      program.kill()
  *_, last = lines = files[1].read_text().splitlines()
  assert (program.returncode, last) == (130, 'Interrupted.'), lines
  # What shows texts may have gone on a moment.
  more = [line for line in lines[len(before):-1] if not re.match(_LIVE, line)]
  assert not more
  _, alive = psutil.wait_procs(started, timeout=_HANGS_SECS)
  assert not alive


def test_ctrl_c_is_one_line_while_the_demo_imports_beam():
  with subprocess.Popen([sys.executable, '-m', 'tools.demo'],
                        cwd=here().root,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        text=True) as program:
    try:
      process = psutil.Process(program.pid)
      # More than Python alone, less than with Beam.
      _wait(lambda: process.memory_info().rss > 40e6, program)
      program.send_signal(signal.SIGINT)
      output, _ = program.communicate(timeout=_HANGS_SECS)
    finally:
      program.kill()
  assert (program.returncode, output) == (130, 'Interrupted.\n')


@pytest.mark.parametrize(
    'module, arguments, message',
    [
        (
            'iterative_text_generation',
            '--input=none.txt --output=o --handler=generator',
            '--input=none.txt: there is no such file. Give the path of a text '
            'file or of a JSON Lines file (.jsonl).'),
        (
            'iterative_text_generation',
            '--input=bad.jsonl --output=o --handler=generator '
            f'{_ITERATIVE} {_FN_API}',
            "bad.jsonl, line 2: expected a JSON object with a string \"prompt\", "
            "got {'prompt': 1}."),
        (
            'iterative_text_generation',
            '--input=prompts.jsonl --output=o --model=./none',
            '--model=./none: there is no such folder. Give the folder of a '
            'Hugging Face model, or its name on the Hub, such as '
            'HuggingFaceTB/SmolLM2-135M-Instruct.'),
        (
            'iterative_guardrail',
            '--input=prompts.jsonl --output=o --handler=generator',
            'Give a rule: --ban, --max_sentences or both.'),
        (
            'iterative_live_page',
            '--prism_location=none --start_at_once',
            '--prism_location=none: there is no such file. Build one with `go '
            'install github.com/apache/beam/sdks/v2/go/cmd/prism`, or leave the '
            'option out: Beam then downloads its own.'),
        (
            'bucketed_text_embeddings',
            '--input=texts.jsonl --output=o --max_batchsize=3',
            '--max_batchsize: there is no such option. Try --max_batch_size.'),
    ])
def test_what_is_wrong_is_one_line(
    module: str, arguments: str, message: str, folder: Path):
  (folder / 'bad.jsonl').write_text("{\"prompt\": \"a\"}\n{'prompt': 1}\n")
  done = subprocess.run(
      [sys.executable, '-m', f'{_EXAMPLES}.{module}', *arguments.split()],
      cwd=folder,
      capture_output=True,
      text=True,
      check=False,
      timeout=_HANGS_SECS)
  assert done.returncode == 2, done.stderr
  assert done.stderr == f'{module}: {message}\n'


def test_a_pipeline_that_works_prints_what_it_did_alone(folder: Path):
  (folder / 'few.txt').write_text('One two.\n\nThree.\n')
  done = subprocess.run([
      *(sys.executable, '-m', f'{_EXAMPLES}.iterative_text_generation'),
      *('--input=few.txt', '--output=chunks.jsonl', '--handler=generator'),
      *(_ITERATIVE, _FN_API)
  ],
                        cwd=folder,
                        capture_output=True,
                        text=True,
                        check=True)
  assert done.stderr == ''
  assert done.stdout.startswith('2 prompts, 3 tokens in ')
  rows = [
      json.loads(line)
      for line in (folder / 'chunks.jsonl').read_text().splitlines()
  ]
  assert {(row['id'], row['prompt'])
          for row in rows} == {('1', 'One two.'), ('3', 'Three.')}
