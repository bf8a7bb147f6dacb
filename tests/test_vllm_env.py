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

"""The server that tools.vllm_env runs, with another program in vLLM's place."""

import os
import time
import urllib.request
from pathlib import Path

import pytest
from tools import vllm_env
from tools.layout import Layout
from tools.layout import ToolError

# Serves, with an engine beside it that would outlive it.
_SERVER = """#!/bin/sh
sleep 600 &
echo $! > engine
exec python3 -c '
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
  def do_GET(self):
    self.send_response(200)
    self.end_headers()
    self.wfile.write(self.path.encode())
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
' "$@"
"""


@pytest.fixture(name='program')
def _program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
  """Where the text of the program goes, which runs in a layout at `.`."""
  program = tmp_path / 'program'
  program.touch(mode=0o755)
  (tmp_path / 'build').mkdir()
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(vllm_env, 'python_with_vllm', lambda layout: program)
  return program


def test_the_server_ends_with_its_engine(program: Path):
  program.write_text(_SERVER)
  layout = Layout(program.parent)
  with vllm_env.server(layout, program, '--max-num-seqs=2') as url:
    with urllib.request.urlopen(f'{url}/models') as answer:
      assert answer.read() == b'/v1/models'
    engine = int(Path('engine').read_text())
    os.kill(engine, 0)
  while os.path.exists(f'/proc/{engine}/cmdline') and Path(
      f'/proc/{engine}/cmdline').read_bytes():
    time.sleep(0.01)


def test_a_server_that_is_killed_starts_again_at_its_address(program: Path):
  program.write_text(_SERVER)
  with vllm_env.process(Layout(program.parent), program) as server:
    server.kill()
    with pytest.raises(OSError):
      urllib.request.urlopen(f'{server.url}/models')
    server.start()
    with urllib.request.urlopen(f'{server.url}/models') as answer:
      assert answer.read() == b'/v1/models'


def test_a_server_that_ends_is_an_error_that_names_its_log(program: Path):
  program.write_text('#!/bin/sh\necho no memory\nexit 3\n')
  with pytest.raises(ToolError, match=r'ended with 3; see .*vllm\.log'):
    with vllm_env.server(Layout(program.parent), program):
      pass
  assert Path('build', 'vllm.log').read_text() == 'no memory\n'
