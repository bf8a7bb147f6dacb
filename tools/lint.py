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

"""Lint, formatting and types by upstream's settings, and the series' rules.

    build/venv/bin/python -m tools.lint [--fix]

Files that the series adds are read in build/beam, where upstream's pyproject
and setup.cfg apply; of upstream's own files only those that the series
touches are type checked.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from tools import build
from tools import words
from tools.layout import Layout
from tools.layout import here
from tools.series import check
from tools.series import git
from tools.series import tree

_NO_LICENCE = ('LICENSE', 'NOTICE', '.gitignore')
_NO_LICENCE_SUFFIXES = ('.md', '.toml', '.txt', '.patch')


def run(layout: Layout, fix: bool) -> list[str]:
  """Runs every check and returns the names of those that failed."""
  source = layout.beam / 'sdks' / 'python'
  added = [str(source / name) for name in tree.python_files(layout.beam, 'A')]
  python = added + [
      str(path) for name in ('tools', 'tests')
      for path in sorted((layout.root / name).rglob('*.py'))
  ]
  # Upstream leaves examples out, and every folder named build.
  ruff = ['--config', str(source / 'pyproject.toml'), '--config', 'exclude=[]']
  style = ['--style', str(source / 'setup.cfg')]
  passed = {
      'ruff': _call(
          layout.root,
          # Upstream leaves unused imports to pylint.
          *('ruff', 'check', '-q', '--no-cache', '--extend-select=F401'),
          *(['--fix'] if fix else []),
          *ruff,
          *python),
      'yapf': _call(
          layout.root, 'yapf', '-i' if fix else '-d', *style, *python),
      'pyrefly': _types(layout, source),
      'actionlint': _actionlint(layout),
  }
  failed = [name for name, ok in passed.items() if not ok]
  failed += _report('licence headers', licence_problems(layout))
  failed += _report('series', check.problems(layout))
  failed += _report('words', words.problems(layout))
  return failed


def _types(layout: Layout, source: Path) -> bool:
  """Type checks what the series adds or changes; only new errors count."""
  changed = tree.python_files(layout.beam, 'M')
  baseline = layout.build / 'pyrefly.json'
  # Fails for what the release itself has, which is what the file is for.
  subprocess.run([
      *('pyrefly', 'check', f'--baseline={baseline}', '--update-baseline'),
      *changed
  ],
                 cwd=build.pristine_source(layout),
                 env=_environment(layout),
                 capture_output=True,
                 check=False)
  return _call(
      source,
      *('pyrefly', 'check', '--summary=none', f'--baseline={baseline}'),
      *changed,
      *tree.python_files(layout.beam, 'A'))


def _actionlint(layout: Layout) -> bool:
  program = layout.build / 'bin' / 'actionlint'
  if program.exists():
    return _call(layout.root, str(program), '-no-color')
  print('actionlint: left out, it needs Go (see make build)')
  return os.environ.get('CI') != 'true'


def _call(cwd: Path, *command: str) -> bool:
  """Runs a program of the environment; prints its output if it fails."""
  done = subprocess.run(
      command,
      cwd=cwd,
      env=_environment(here()),
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      check=False)
  print(
      f'{Path(command[0]).name}: {"failed" if done.returncode else "ok"}',
      flush=True)
  if done.returncode:
    print(done.stdout)
  return not done.returncode


def licence_problems(layout: Layout) -> list[str]:
  """The files of this repository that lack the header."""
  listed = git.out(
      layout.root, 'ls-files', '--cached', '--others', '--exclude-standard')
  found = []
  for name in listed.splitlines():
    path = layout.root / name
    exempt = (
        name in _NO_LICENCE or path.suffix in _NO_LICENCE_SUFFIXES or
        path.name == 'series' or not path.is_file())
    if not exempt and check.LICENCE not in path.read_text(
        encoding='utf-8')[:800]:
      found.append(f'{name}: lacks the ASF licence header.')
  return found


def _report(name: str, problems: list[str]) -> list[str]:
  print(f'{name}: {"failed" if problems else "ok"}')
  for line in problems:
    print(f'  {line}')
  return [name] if problems else []


def _environment(layout: Layout) -> dict[str, str]:
  """With the programs of build/venv in front."""
  programs = layout.build / 'venv' / 'bin'
  return {**os.environ, 'PATH': f'{programs}{os.pathsep}{os.environ["PATH"]}'}


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
      '--fix', action='store_true', help='mend formatting in place')
  failed = run(here(), parser.parse_args().fix)
  print(f'check: failed: {", ".join(failed)}' if failed else 'check: ok')
  return 1 if failed else 0


if __name__ == '__main__':
  sys.exit(main())
