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

"""Builds a wheel of the patched SDK in build/dist/.

    python3 -m tools.wheel

The wheel holds what build/beam holds, and the compiled extensions, which it takes
from the same cache as the build. Its version is that of the release with a local
label, the hash of the tree that it was made of: 2.77.0+series.0123456789.
`apache_beam.__version__` stays 2.77.0, since Beam names its container images and
Prism's download by it.
"""

import argparse
import fcntl
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from tools import build
from tools.layout import Layout
from tools.layout import ToolError
from tools.layout import here
from tools.series import git

_SOURCE = 'sdks/python'
_LABEL_LENGTH = 10


def make(layout: Layout) -> Path:
  """Builds the wheel of what build/beam holds, unless it is there.

  Raises:
    ToolError: if a step fails.
  """
  tree = _tree(layout)
  label = f'series.{tree[:_LABEL_LENGTH]}'
  folder = layout.build / 'dist'
  for made in folder.glob(f'*+{label}-{_python_tag()}-*.whl'):
    return made
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)
  with tempfile.TemporaryDirectory() as tmp:
    source = Path(tmp) / 'python'
    _export(layout, tree, source)
    pure = _pure_wheel(layout, source, label)
    return _with_extensions(layout, source, pure, folder)


def _tree(layout: Layout) -> str:
  """The hash of what build/beam holds, committed or not; git keeps the tree."""
  with tempfile.TemporaryDirectory() as tmp:
    index = {'GIT_INDEX_FILE': str(Path(tmp) / 'index')}
    git.run(layout.beam, 'add', '-A', '--', _SOURCE, **index)
    whole = git.out(layout.beam, 'write-tree', **index)
  return git.out(layout.beam, 'rev-parse', f'{whole}:{_SOURCE}')


def _export(layout: Layout, tree: str, source: Path) -> None:
  archive = source.with_suffix('.tar')
  git.run(layout.beam, 'archive', '-o', str(archive), tree)
  with tarfile.open(archive) as tar:
    tar.extractall(source, filter='data')


def _pure_wheel(layout: Layout, source: Path, label: str) -> Path:
  """A wheel without extensions: where Cython is missing, setup.py makes one."""
  _run(
      layout,
      *('setup.py', '-q', 'egg_info', f'--tag-build=+{label}'),
      *('bdist_wheel', '-d', 'dist'),
      cwd=source)
  (wheel, ) = (source / 'dist').glob('*.whl')
  return wheel


def _with_extensions(
    layout: Layout, source: Path, pure: Path, folder: Path) -> Path:
  """Adds the compiled modules to a wheel, and says for which Python they are."""
  _run(layout, '-m', 'wheel', 'unpack', '-d', 'unpacked', pure, cwd=source)
  (content, ) = (source / 'unpacked').iterdir()
  build.unpack_extensions(layout, source)
  modules = sorted((source / 'apache_beam').rglob('*.so'))
  if not modules:
    raise ToolError('There are no compiled extensions. Run `make build` first.')
  for module in modules:
    shutil.copy2(module, content / module.relative_to(source))
  (info, ) = content.glob('*.dist-info')
  for name in ('LICENSE', 'NOTICE'):
    shutil.copy2(layout.root / name, info / name)
  text = (info / 'WHEEL').read_text()
  (info / 'WHEEL').write_text(
      text.replace('Root-Is-Purelib: true', 'Root-Is-Purelib: false').replace(
          'Tag: py3-none-any', f'Tag: {_python_tag()}-{_platform_tag(layout)}'))
  _run(layout, '-m', 'wheel', 'pack', '-d', folder, content, cwd=source)
  (wheel, ) = folder.glob('*.whl')
  return wheel


def _python_tag() -> str:
  name = f'cp{sys.version_info.major}{sys.version_info.minor}'
  return f'{name}-{name}'


def _platform_tag(layout: Layout) -> str:
  """Of this machine, as its pip names it first."""
  code = (
      'from packaging import tags; print([t.platform for t in tags.sys_tags() '
      'if t.platform.startswith(("linux", "macosx"))][0])')
  return _run(layout, '-c', code, cwd=layout.root).strip()


def _run(layout: Layout, *args, cwd: Path) -> str:
  """Runs the environment's Python; it has setuptools, wheel and no Cython."""
  return build.run([layout.build / 'venv' / 'bin' / 'python', *args], cwd=cwd)


def main() -> int:
  argparse.ArgumentParser(
      prog='python -m tools.wheel', description=__doc__).parse_args()
  layout = here()
  try:
    with (layout.build / '.lock').open('w') as lock:
      # Another build of this checkout is waited for.
      fcntl.flock(lock, fcntl.LOCK_EX)
      wheel = make(layout)
  except ToolError as e:
    print(f'wheel: {e}', file=sys.stderr)
    return 1
  print(
      f'wheel: {wheel.relative_to(layout.root)} is ready. Install it with\n'
      f'  pip install {wheel.relative_to(layout.root)}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
