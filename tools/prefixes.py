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

"""Tests every prefix of the series: each PR must stand on those before it.

A repair must also stand on the release and the repairs alone that it names.

For each commit of build/beam: its modules import, and these tests of the series
pass: its own, and those beside its files that import what it touches. A tree
that was green once is not run again, whichever clone ran it.

    build/venv/bin/python -m tools.prefixes [--all | --own]
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import queue
import subprocess
import sys
import time
from pathlib import Path

from tools import build
from tools.layout import Layout
from tools.layout import ToolError
from tools.layout import here
from tools.series import git
from tools.series import pull_request
from tools.series import tree

# Imports modules, then runs pytest if it has tests: in one process, as each
# takes seconds to import Beam. Some of Beam's own modules need clients of
# services that are not installed.
_CHECK = '''
import importlib, json, sys
modules, tests = map(json.loads, sys.argv[1:])
for name in modules:
  try:
    importlib.import_module(name)
  except ModuleNotFoundError as e:
    if (e.name or '').startswith('apache_beam'):
      raise
    print(f'{name} needs {e.name}')
if tests:
  import pytest
  sys.exit(pytest.main(
      ['-q', '-p', 'no:cacheprovider', '-p', 'tools.hypothesis_profiles', *tests]))
'''


def run(layout: Layout, again: bool = False, own: bool = False) -> int:
  """Tests the prefixes, one for each processor at a time.

  Args:
    layout: the checkout.
    again: also the trees that were green before.
    own: only the tests that a commit adds or changes.

  Returns:
    How many failed.
  """
  base = tree.base(layout.beam)
  commits = git.out(layout.beam, 'rev-list', '--reverse',
                    f'{base}..HEAD').splitlines()
  works = [
      build.checkout(layout, f'prefix{i}', base).parents[1]
      for i in range(os.cpu_count() or 1)
  ]
  free = queue.SimpleQueue()
  for work in works:
    free.put(work)

  def check(commit):
    start = time.monotonic()
    whole = _green_stamp(layout, commit)
    green = whole.with_suffix('.own') if own else whole
    if (whole.exists() or green.exists()) and not again:
      return 'green before', 0.0, ''
    work = free.get()
    try:
      ok, output = _passes(layout, work, commit, own)
    finally:
      free.put(work)
    if ok:
      green.parent.mkdir(parents=True, exist_ok=True)
      green.touch()
    return 'green' if ok else 'FAILED', time.monotonic() - start, output

  prefixes = list(_all(layout, works[0], commits))
  failed = 0
  with concurrent.futures.ThreadPoolExecutor(len(works)) as pool:
    found = pool.map(check, [commit for _, commit, _ in prefixes])
    for (number, commit, title), (state, secs, output) in zip(prefixes, found):
      if state == 'FAILED':
        failed += 1
        print(output)
      print(
          f'{number:3} of {len(commits)}  {state:12}  {secs:4.0f} s  {title}',
          flush=True)
  for work in works:
    git.run(layout.beam, 'worktree', 'remove', '--force', work)
  return failed


def _all(layout: Layout, work: Path, commits: list[str]):
  """Yields (number, commit, title) of the prefixes, and of repairs alone."""
  for number, commit in enumerate(commits, 1):
    title, track = git.out(
        layout.beam,
        'log',
        '-1',
        '--format=%s%n%(trailers:key=Track,valueonly,separator=)',
        commit).split('\n')
    yield number, commit, title
    if number > 1 and track == pull_request.REPAIRS:
      yield number, tree.alone(work, commit), f'{title}, alone'


def _green_stamp(layout: Layout, commit: str) -> Path:
  """Named for the tree and for everything it is run with."""
  tree_hash = git.out(layout.beam, 'rev-parse', f'{commit}^{{tree}}')
  pins = sorted((layout.root / 'requirements').glob('*.txt'))
  key = hashlib.sha256(f'{tree_hash} {sys.version} '.encode())
  for path in pins:
    key.update(path.read_bytes())
  return layout.cache / 'green' / key.hexdigest()


def _passes(layout: Layout, work: Path, commit: str,
            own: bool) -> tuple[bool, str]:
  """Whether a prefix passes, and what it printed."""
  git.run(work, 'checkout', '-q', '--detach', commit)
  source = work / 'sdks' / 'python'
  build.unpack_extensions(layout, source)
  names = git.out(
      work,
      'diff-tree',
      '-r',
      '--no-commit-id',
      '--name-only',
      '--diff-filter=AM',
      commit).splitlines()
  paths = [Path(name).relative_to('sdks/python') for name in names]
  python = [path for path in paths if path.suffix == '.py']
  modules = ['.'.join(path.with_suffix('').parts) for path in python]
  modules = [
      name.removesuffix('.__init__') for name in modules
      if not name.endswith('_test')
  ]
  tests = _tests_of(work, python, [] if own else modules)
  env = {
      **os.environ,
      'HYPOTHESIS_PROFILE': 'prefix',
      'PYTHONPATH': os.pathsep.join([str(source), str(layout.root)])
  }
  done = subprocess.run(
      [sys.executable, '-c', _CHECK, json.dumps(modules), json.dumps(tests)],
      cwd=source,
      env=env,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      check=False)
  return not done.returncode, done.stdout


def _tests_of(work: Path, paths: list[Path], modules: list[str]) -> list[str]:
  """The series' tests, up to here, of what a commit touches.

  Args:
    work: the checked out commit.
    paths: the Python files that it touches.
    modules: those of them whose importers count too.
  """
  folders = {path.parent for path in paths}
  found = []
  for name in tree.python_files(work, 'A', '*_test.py'):
    if Path(name).parent not in folders:
      continue
    text = (work / 'sdks' / 'python' / name).read_text(encoding='utf-8')
    if Path(name) in paths or any(_imports(text, module) for module in modules):
      found.append(name)
  return found


def _imports(text: str, module: str) -> bool:
  package, _, name = module.rpartition('.')
  return any(
      f'{line}\n' in text or f'{line} ' in text for line in (
          f'import {module}', f'from {module}',
          f'from {package} import {name}'))


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  which = parser.add_mutually_exclusive_group()
  which.add_argument(
      '--all',
      action='store_true',
      help='also the trees that were green before')
  which.add_argument(
      '--own',
      action='store_true',
      help='only the tests that a commit adds or changes')
  args = parser.parse_args()
  try:
    failed = run(here(), args.all, args.own)
  except ToolError as e:
    print(f'prefixes: {e}', file=sys.stderr)
    return 1
  print(f'prefixes: {failed} failed' if failed else 'prefixes: ok')
  return 1 if failed else 0


if __name__ == '__main__':
  sys.exit(main())
