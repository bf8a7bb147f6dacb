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

"""A checkout of the tools' making, on a small release instead of Beam's; Prism.
"""

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tools.layout import Layout
from tools.layout import here
from tools.series import git
from tools.series.__main__ import main

# What hypothesis keeps goes where it is ignored.
os.environ.setdefault(
    'HYPOTHESIS_STORAGE_DIRECTORY', str(here().build / '.hypothesis'))
# A shell's background jobs ignore it, and so would what the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
LICENCE = '# Licensed to the Apache Software Foundation (ASF) under one\n'
# A build backend that needs nothing: pip asks each source distribution.
_BACKEND = """
def prepare_metadata_for_build_wheel(folder, config_settings=None):
  import os
  info = os.path.join(folder, 'apache_beam-9.9.9.dist-info')
  os.mkdir(info)
  with open(os.path.join(info, 'METADATA'), 'w') as file:
    file.write(open('PKG-INFO').read())
  return 'apache_beam-9.9.9.dist-info'
"""
_PYPROJECT = (
    '[build-system]\nrequires = []\n'
    'build-backend = "backend"\nbackend-path = ["."]\n')
# The first text of a file that the series adds.
NEW = LICENCE + ''.join(f'{name} = 1\n' for name in 'abcdefghij')
RELEASE = {
    'PKG-INFO': 'Metadata-Version: 2.1\nName: apache-beam\nVersion: 9.9.9\n',
    'pyproject.toml': _PYPROJECT,
    'backend.py': _BACKEND,
    'apache_beam/util.py': ''.join(f'line = {i}\n' for i in range(1, 31)),
    'apache_beam/windows.py': 'first\r\nsecond\r\nthird\r\n',
    'apache_beam/größe.py': '# größer, 大きい\nsize = 1\n',
    'apache_beam/with space.py': 'last line without an end',
    '.gitignore': 'ignored.py\n',
    'apache_beam/ignored.py': 'ignored = False\n',
}
TEXT = """{subject}

What changes for a user, and why it does, in the words that a reviewer would
read: the pull request needs a text of some length, so here are a few more
words to fill this paragraph with.

Addresses: https://github.com/apache/beam/issues/1
Upstream-Status: Not submitted, 2026-11-23
Track: smart_bucketing
"""
PIN = """[upstream]
package = "apache-beam"
version = "{version}"
sha256 = "{sha256}"
date = "2026-10-01T09:00:00+00:00"
prefix = "sdks/python"
"""


def sdist(files: dict[str, str | bytes], version: str = '9.9.9') -> bytes:
  """A source distribution with these files."""
  raw = io.BytesIO()
  with tarfile.open(fileobj=raw, mode='w') as tar:
    for name, text in files.items():
      data = text if isinstance(text, bytes) else text.encode()
      info = tarfile.TarInfo(f'apache_beam-{version}/{name}')
      info.size = len(data)
      tar.addfile(info, io.BytesIO(data))
  return gzip.compress(raw.getvalue(), mtime=0)


class Checkout:
  """A checkout, and the hands of a person who works in it."""
  def __init__(self, root: Path):
    self.layout = Layout(root)
    self.beam = self.layout.beam
    self.source = self.beam / 'sdks' / 'python'
    self.track = self.layout.patches / 'smart_bucketing'
    for folder in (self.track, self.layout.sdks):
      folder.mkdir(parents=True, exist_ok=True)
    (self.track / 'series').touch()
    if not self.layout.pin.exists():
      self.pin(sdist(RELEASE))

  def copy(self, root: Path) -> 'Checkout':
    """Another checkout in the same state."""
    shutil.copytree(self.layout.root, root, symlinks=True)
    return Checkout(root)

  def pin(self, data: bytes, version: str = '9.9.9') -> Path:
    """Pins a release that is in the cache already."""
    sha256 = hashlib.sha256(data).hexdigest()
    self.layout.pin.write_text(PIN.format(version=version, sha256=sha256))
    cached = self.layout.cache / 'sdist' / f'{sha256}.tar.gz'
    cached.parent.mkdir(parents=True, exist_ok=True)
    cached.write_bytes(data)
    return cached

  def run(self, *argv) -> int:
    """A command of the tool."""
    return main([str(arg) for arg in argv], self.layout)

  def refused(self, *argv) -> str:
    """What a command says that ends with status 1."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
      assert self.run(*argv) == 1
    return said.getvalue()

  def git(self, *args, cwd: Path | None = None, fails: bool = False) -> str:
    """A git command of the person, with a configuration of their own."""
    env = {k: v for k, v in os.environ.items() if not k.startswith('GIT_')}
    done = subprocess.run(['git', *map(str, args)],
                          cwd=cwd or self.beam,
                          env={
                              **env, 'GIT_EDITOR': 'true'
                          },
                          capture_output=True,
                          check=False)
    assert (done.returncode != 0) == fails, (args, done.stdout, done.stderr)
    return done.stdout.decode(*git.BYTES).rstrip('\n')

  def write(self, name: str, text: str | bytes) -> Path:
    """Writes a file of sdks/python in build/beam."""
    path = self.source / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path

  def edit(self, name: str, old: str, new: str) -> None:
    text = (self.source / name).read_bytes().decode()
    assert old in text
    self.write(name, text.replace(old, new, 1))

  def commit(self, subject: str) -> str:
    """Commits what lies in build/beam, as a pull request."""
    return self.commit_text(TEXT.format(subject=subject))

  def commit_text(self, message: str, *args) -> str:
    self.git('add', '--all')
    self.git('commit', '-q', '-m', message, *args)
    return self.git('rev-parse', 'HEAD')

  def three_prs(self) -> None:
    """A series with added files, a later hunk to one, and upstream's lines."""
    assert self.run('apply') == 0
    self.write('apache_beam/new.py', NEW)
    self.commit('Add new')
    self.edit('apache_beam/new.py', 'b = 1', 'b = 22')
    self.edit('apache_beam/util.py', 'line = 9\n', 'line = 99\n')
    self.write('apache_beam/other.py', LICENCE + 'd = 4\n')
    self.commit('Change new')
    self.edit('apache_beam/util.py', 'line = 20\n', 'line = 20\nline = 20.5\n')
    self.edit('apache_beam/windows.py', 'second\r\n', 'zweite\r\n')
    self.commit('Hook into util')
    assert self.run('export') == 0

  def files(self) -> dict[str, bytes]:
    """Everything in patches/ and sdks/."""
    return {
        path.relative_to(self.layout.root).as_posix(): path.read_bytes()
        for folder in (self.layout.patches, self.layout.sdks)
        for path in folder.rglob('*') if path.is_file()
    }

  def trees(self) -> list[str]:
    """The tree of each commit of build/beam."""
    return self.git('log', '--format=%T').split()

  def wipe(self) -> None:
    shutil.rmtree(self.layout.build)


def move_in(folder: Path, patch: pytest.MonkeyPatch) -> None:
  """Makes a person's home: a name for git, a cache, no network for pip."""
  folder.mkdir()
  (folder / '.gitconfig'
   ).write_text('[user]\nname = Ada Lövelace\nemail = ada@example.org\n')
  for name, value in {
      'HOME': str(folder),
      'XDG_CACHE_HOME': str(folder / 'cache'),
      'PIP_NO_INDEX': '1',
      'PIP_FIND_LINKS': '',
      'PIP_CONFIG_FILE': os.devnull,
  }.items():
    patch.setenv(name, value)
  patch.delenv('XDG_CONFIG_HOME', raising=False)


@pytest.fixture(name='prism', scope='session')
def _prism() -> Path:
  """The program; a test that needs it must run in CI."""
  program = here().build / 'bin' / 'prism'
  if not program.exists():
    if os.environ.get('CI') == 'true':
      pytest.fail('build/bin/prism is missing: CI needs Go.')
    pytest.skip('build/bin/prism is missing; install Go and run make build.')
  return program


@pytest.fixture(name='run_pipeline')
def _run_pipeline(tmp_path: Path) -> Callable[..., list]:
  """Runs a pipeline's text with flags; returns the JSON lines that it wrote.

  The path to write to is its first argument.
  """
  def run(pipeline: str, *flags: str) -> list:
    script, out = tmp_path / 'pipeline.py', tmp_path / 'out.jsonl'
    script.write_text(pipeline, encoding='utf-8')
    done = subprocess.run([sys.executable, script, out, *flags],
                          stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT,
                          text=True,
                          check=False)
    assert done.returncode == 0, done.stdout
    return [json.loads(line) for line in out.read_text().splitlines()]

  return run


@pytest.fixture(name='run_on_prism')
def _run_on_prism(prism: Path, run_pipeline: Callable) -> Callable[..., list]:
  """As run_pipeline, on Prism."""
  def run(pipeline: str, *flags: str) -> list:
    on_prism = ('--runner=PrismRunner', f'--prism_location={prism}')
    return run_pipeline(pipeline, *on_prism, *flags)

  return run


@pytest.fixture(name='checkout')
def fixture_checkout(tmp_path, monkeypatch) -> Checkout:
  """A checkout without pull requests, in a folder with a space in its name."""
  move_in(tmp_path / 'home', monkeypatch)
  return Checkout(tmp_path / 'my work')


@pytest.fixture(scope='session', name='prepared')
def fixture_prepared(tmp_path_factory) -> Checkout:
  """Made once, to copy from."""
  with pytest.MonkeyPatch.context() as patch:
    folder = tmp_path_factory.mktemp('prepared')
    move_in(folder / 'home', patch)
    checkout = Checkout(folder / 'work')
    checkout.three_prs()
  return checkout


@pytest.fixture(name='series')
def fixture_series(tmp_path, monkeypatch, prepared) -> Checkout:
  """A checkout with three pull requests, exported."""
  move_in(tmp_path / 'home', monkeypatch)
  checkout = prepared.copy(tmp_path / 'my work')
  checkout.pin(sdist(RELEASE))
  return checkout
