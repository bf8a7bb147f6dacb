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

import os
import subprocess
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tools import build
from tools.layout import Layout
from tools.layout import ToolError


@pytest.fixture(name='layout')
def _layout(tmp_path: Path, monkeypatch) -> Layout:
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  layout = Layout(tmp_path / 'checkout')
  (layout.root / 'requirements').mkdir(parents=True)
  (layout.root / 'requirements' / 'extensions.txt').write_text('cython==3\n')
  return layout


@pytest.fixture(name='source')
def _source(layout: Layout) -> Path:
  source = layout.beam / 'sdks' / 'python'
  package = source / 'apache_beam'
  package.mkdir(parents=True)
  (source / 'setup.py').write_text("cythonize(['apache_beam/fast.py'])\n")
  for name in ('fast.py', 'plain.py', 'stream.pyx', 'stream.pxd'):
    (package / name).write_text('pass\n')
  return source


def test_key_follows_compiled_sources_only(layout: Layout, source: Path):
  key = build.extensions_key(layout, source)
  (source / 'apache_beam' / 'plain.py').write_text('changed\n')
  assert build.extensions_key(layout, source) == key
  for name in ('apache_beam/fast.py', 'apache_beam/stream.pxd', 'setup.py'):
    text = (source / name).read_text()
    (source / name).write_text(text + '# changed\n')
    assert build.extensions_key(layout, source) != key
    (source / name).write_text(text)
  assert build.extensions_key(layout, source) == key


def test_extensions_are_compiled_once_and_shared(
    layout: Layout, source: Path, monkeypatch):
  compiled = []

  def compile_one(_, source, archive):
    compiled.append(source)
    made = source / 'made'
    made.write_text('machine code')
    with tarfile.open(archive, 'w') as tar:
      tar.add(made, 'apache_beam/fast.so')

  monkeypatch.setattr(build, '_compile', compile_one)
  stale = source / 'apache_beam' / 'old.so'
  stale.write_text('of another source')
  for _ in range(2):
    build.unpack_extensions(layout, source)
    assert (source / 'apache_beam' / 'fast.so').read_text() == 'machine code'
    assert not stale.exists()
  assert len(compiled) == 1


def test_builds_at_the_same_time_make_a_folder_of_the_cache_once(
    tmp_path: Path):
  made = []

  def make(folder: Path):
    made.append(folder)
    time.sleep(0.1)
    folder.mkdir()
    (folder / 'model').write_text('weights')

  kept = tmp_path / 'models' / 'one'
  with ThreadPoolExecutor(2) as pool:
    list(pool.map(lambda _: build.keep(kept, make), range(2)))
  assert len(made) == 1
  assert [path.name for path in kept.iterdir()] == ['model']


def test_failed_compilation_leaves_no_cache_entry(
    layout: Layout, source: Path, monkeypatch):
  def fail(_, __, archive):
    archive.write_text('half')
    raise ToolError('no compiler')

  monkeypatch.setattr(build, '_compile', fail)
  with pytest.raises(ToolError):
    build.unpack_extensions(layout, source)
  assert not [p for p in layout.cache.rglob('*') if p.is_file()]


def test_step_runs_again_only_for_another_key(layout: Layout):
  runs = []
  for key in ('a', 'a', 'b', 'b', 'a'):
    build._step(
        layout, 'step', key, layout.root, lambda key=key: runs.append(key))
  assert runs == ['a', 'b', 'a']


def test_step_runs_again_when_its_work_is_gone(layout: Layout):
  made = layout.root / 'made'
  runs = []

  def make():
    runs.append(1)
    made.touch()

  for _ in range(2):
    build._step(layout, 'step', 'key', made, make)
    build._step(layout, 'step', 'key', made, make)
    made.unlink()
  assert len(runs) == 2


def test_failed_step_runs_again(layout: Layout):
  def fail():
    raise ToolError('no')

  build._step(layout, 'step', 'old', layout.root, lambda: None)
  with pytest.raises(ToolError):
    build._step(layout, 'step', 'new', layout.root, fail)
  runs = []
  build._step(layout, 'step', 'old', layout.root, lambda: runs.append(1))
  assert runs == [1]


def test_without_go_the_build_says_what_is_left_out(
    layout: Layout, monkeypatch, capsys):
  monkeypatch.setattr(build.shutil, 'which', lambda _: None)
  build._go_program(layout, 'prism', 'example.org/prism@v1')
  assert 'No Go here, so no build/bin/prism' in capsys.readouterr().out


def test_program_of_another_clone_needs_no_go(
    layout: Layout, monkeypatch, capsys):
  def install(command, env):
    (Path(env['GOBIN']) / 'prism').write_text(command[-1])

  with monkeypatch.context() as patch:
    patch.setattr(build.shutil, 'which', lambda _: 'go')
    patch.setattr(build, 'run', install)
    build._go_program(layout, 'prism', 'example.org/prism@v1')
  monkeypatch.setattr(build.shutil, 'which', lambda _: None)
  other = Layout(layout.root.with_name('other'))
  other.build.mkdir(parents=True)
  build._go_program(other, 'prism', 'example.org/prism@v1')
  program = other.build / 'bin' / 'prism'
  assert program.read_text() == 'example.org/prism@v1'
  # A release without a program here: said, and no traceback.
  build._go_program(other, 'prism', 'example.org/prism@v2')
  assert 'No Go here' in capsys.readouterr().out


def test_failing_command_shows_its_output():
  with pytest.raises(ToolError, match='what went wrong'):
    build.run(['sh', '-c', 'echo what went wrong; exit 3'])


def test_environment_runs_the_patched_source():
  """Of this checkout: editable, and with the extensions of that source."""
  layout = build.here()
  program = (
      'import apache_beam.transforms.batching.policy.least_cost as policy, '
      'apache_beam.coders.coder_impl as fast; '
      'print(policy.__file__, fast.__file__)')
  env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
  out = subprocess.run(
      [layout.build / 'venv' / 'bin' / 'python', '-c', program],
      cwd=layout.root,
      env=env,
      capture_output=True,
      text=True,
      check=True)
  policy, fast = out.stdout.split()
  source = layout.beam / 'sdks' / 'python' / 'apache_beam'
  assert Path(policy).is_relative_to(source)
  assert Path(fast).is_relative_to(source) and fast.endswith('.so')
