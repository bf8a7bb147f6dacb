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

"""Counts the mutants of modules that their tests notice.

    build/venv/bin/python -m tools.mutants [module ...] [--sample 60] [--seed 0]

Cosmic Ray makes the mutants. It would start Python, Beam and torch for each,
4 to 15 seconds, and write them over the source. Here a process that has loaded
all packages forks for each mutant, and the fork loads the mutant instead of
the module. A test that fails, or takes five times its usual processor time,
notices it.
"""

import argparse
import ast
import concurrent.futures
import importlib
import importlib.machinery
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tools import servers
from tools.layout import Layout
from tools.layout import ToolError
from tools.layout import here

_BATCHING = 'transforms/batching'
_POLICY = f'{_BATCHING}/policy'
_DURABLE = 'ml/inference/iterative/durable'
_FOLDS = 'ml/inference/iterative/folds'
_PADDING = 'ml/inference/padding'
# The tests of each module, in folders of their own where a name has a slash.
MODULES = {
    f'{_POLICY}/cost_model': ('cost_model', ),
    f'{_POLICY}/fixed_boundaries': ('flushing', f'{_BATCHING}/stateful'),
    f'{_POLICY}/flushing': ('flushing', 'work_conserving'),
    f'{_POLICY}/learned': ('learned', ),
    f'{_POLICY}/least_cost': ('least_cost', ),
    f'{_POLICY}/lookahead': ('lookahead', f'{_BATCHING}/in_bundle'),
    f'{_POLICY}/memory_limit': ('memory_limit', ),
    f'{_POLICY}/priced_window': ('flushing', f'{_BATCHING}/stateful'),
    f'{_POLICY}/replay': (
        'flushing', 'work_conserving', f'{_BATCHING}/advisor/offline_bound'),
    f'{_POLICY}/work_conserving': ('work_conserving', f'{_BATCHING}/stateful'),
    f'{_BATCHING}/buffer': ('buffer', 'buffer_state', 'stateful'),
    f'{_BATCHING}/buffer_state': ('buffer_state', 'stateful'),
    'ml/inference/halving': ('halving', ),
    f'{_DURABLE}/requests': (
        'requests', 'transitions', 'transitions_limits', 'delays'),
    f'{_DURABLE}/transitions': ('transitions', 'transitions_limits'),
    f'{_FOLDS}/do_fns': ('do_fns', 'transforms'),
    f'{_FOLDS}/incomplete': ('do_fns', 'transforms'),
    f'{_FOLDS}/rows': ('rows', ),
    f'{_FOLDS}/sentence_ends': ('texts', ),
    f'{_FOLDS}/text_coders': ('texts', 'do_fns'),
    f'{_FOLDS}/texts': ('texts', 'do_fns'),
    f'{_FOLDS}/transforms': ('transforms', ),
    f'{_PADDING}/cut': ('cut', ),
    f'{_PADDING}/outputs': ('outputs', 'cut', 'inference_fn'),
}
_LEAST_KILLED = 0.9
# A fork that starts threads or waits for what never comes: in seconds.
_LONGEST_SECS = 600


class Mutant(NamedTuple):
  """A changed module.

  Attributes:
    operator: of Cosmic Ray.
    line: where it is changed.
    source: of the module, changed.
  """
  operator: str
  line: int
  source: str


class Count(NamedTuple):
  """How many mutants of a module there are, by outcome."""
  module: str
  mutants: int
  killed: int
  survivors: list[str]


def _positions_left_out(source: str) -> list[tuple]:
  """The first and the last position of what no test is meant to notice: types,
  and that a dataclass is frozen or has slots."""
  found = []
  for node in ast.walk(ast.parse(source)):
    parts = [getattr(node, 'annotation', None), getattr(node, 'returns', None)]
    if isinstance(node, ast.ClassDef):
      parts += node.decorator_list
    for part in parts:
      if part is not None:
        found.append(((part.lineno, part.col_offset),
                      (part.end_lineno, part.end_col_offset)))
  return found


def print_mutants(path: Path, sample: int, seed: int) -> None:
  """Prints mutants as lines of JSON; runs in the environment of Cosmic Ray.

  Args:
    path: of the module.
    sample: how many places are changed, each in one way; 0 for all of them in
      all ways.
    seed: of the sample.
  """
  from cosmic_ray import plugins
  from cosmic_ray.ast import ast_nodes
  from cosmic_ray.ast import get_ast
  from cosmic_ray.mutating import mutate_code
  source = path.read_text(encoding='utf-8')
  left_out = _positions_left_out(source)
  nodes = list(ast_nodes(get_ast(source)))
  places = {}
  for name in sorted(plugins.operator_names()):
    operator = plugins.get_operator(name)
    if operator.arguments():
      continue
    found = (at for node in nodes for at in operator().mutation_positions(node))
    for occurrence, (start, end) in enumerate(found):
      if not any(first <= end and start <= last for first, last in left_out):
        places.setdefault((start, end), []).append((name, occurrence))
  chosen = [(at, way) for at, ways in sorted(places.items()) for way in ways]
  if sample:
    rng = random.Random(seed)
    some = rng.sample(sorted(places), min(sample, len(places)))
    chosen = [(at, rng.choice(places[at])) for at in sorted(some)]
  for ((line, _), _), (name, occurrence) in chosen:
    mutated = mutate_code(source, plugins.get_operator(name)(), occurrence)
    print(json.dumps(Mutant(name, line, mutated)))


def test_files(module: str) -> list[str]:
  folder = Path(module).parent
  return [
      f'apache_beam/{name if "/" in name else folder / name}_test.py'
      for name in MODULES[module]
  ]


class _Loader(importlib.machinery.SourceFileLoader):
  """Loads a mutant instead of a module."""
  def __init__(self, name, path, source):
    super().__init__(name, path)
    self._source = source

  def get_code(self, fullname):
    return compile(self._source, self.path, 'exec')


class _Finder:
  def __init__(self, name, path, source):
    self._name = name
    self._loader = _Loader(name, path, source)

  def find_spec(self, name, path, target=None):
    if name != self._name:
      return None
    return importlib.machinery.ModuleSpec(name, self._loader, origin=name)


def _load_packages(files: list[str]) -> None:
  """Loads what tests load, but for Beam."""
  names = [name[:-3].replace('/', '.') for name in files]
  code = (
      f'import json, sys, {", ".join(names)}\n'
      'print(json.dumps([*sys.modules]))')
  found = subprocess.run([sys.executable, '-c', code],
                         check=True,
                         stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL,
                         text=True).stdout
  for name in json.loads(found.splitlines()[-1]):
    if not name.startswith(('apache_beam', '__')):
      try:
        importlib.import_module(name)
      except ImportError:
        pass  # A name that another module gave it.


def _test(files: list[str], *arguments: str) -> int:
  """Runs pytest in this process."""
  import hypothesis
  import pytest
  hypothesis.settings.register_profile(
      'mutants',
      max_examples=25,
      derandomize=True,
      database=None,
      deadline=None,
      suppress_health_check=[*hypothesis.HealthCheck])
  hypothesis.settings.load_profile('mutants')
  return pytest.main([
      *('-x', '-q', '-p', 'no:cacheprovider', '-p', 'no:xdist'),
      *('-p', 'no:randomly', '--timeout=0', *arguments),
      *files
  ])


def _fork(module: str, source: str, files: list[str], cpu_secs: float) -> str:
  """Runs tests with a mutant: 'killed', 'survived' or 'timeout'."""
  pid = os.fork()
  if not pid:
    os.setsid()
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
      os.dup2(nothing, stream)
    resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_secs) + 1, ) * 2)
    name = f'apache_beam.{module.replace("/", ".")}'
    sys.meta_path.insert(0, _Finder(name, f'apache_beam/{module}.py', source))
    failed = 1
    try:
      failed = int(_test(files) != 0)
    finally:
      os._exit(failed)
  ended, began = 0, time.monotonic()
  while not ended and time.monotonic() - began < _LONGEST_SECS:
    time.sleep(0.02)
    ended, status = os.waitpid(pid, os.WNOHANG)
  try:
    os.killpg(pid, signal.SIGKILL)
  except ProcessLookupError:
    pass
  if not ended:
    os.waitpid(pid, 0)
    return 'timeout'
  if os.WIFSIGNALED(status):
    return 'timeout'
  return 'killed' if os.WEXITSTATUS(status) else 'survived'


def run_module(layout: Layout, module: str, sample: int,
               seed: int) -> Iterator[str]:
  """Runs the tests of a module with each mutant; yields outcomes as JSON."""
  source = layout.beam / 'sdks' / 'python'
  os.chdir(source)
  sys.path.insert(0, str(source))
  os.environ['PYTHONPATH'] = str(source)
  path = source / 'apache_beam' / f'{module}.py'
  made = subprocess.run([
      *(servers.python_of(layout, 'cosmic_ray'), __file__, module),
      *('--print', path, '--sample', str(sample), '--seed', str(seed))
  ],
                        env={
                            **os.environ, 'PYTHONPATH': str(layout.root)
                        },
                        stdout=subprocess.PIPE,
                        text=True,
                        check=True).stdout
  files = test_files(module)
  _load_packages(files)
  before = resource.getrusage(resource.RUSAGE_CHILDREN)
  if _fork(module, path.read_text(encoding='utf-8'), files, 600) != 'survived':
    raise ToolError(f'The tests of {module} fail without a mutant: {files}.')
  after = resource.getrusage(resource.RUSAGE_CHILDREN)
  usual = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
  original = path.read_text(encoding='utf-8').splitlines()
  for line in made.splitlines():
    mutant = Mutant(*json.loads(line))
    outcome = _fork(module, mutant.source, files, 10 + 5 * usual)
    changed = mutant.source.splitlines()[mutant.line - 1].strip()
    place = (
        f'{mutant.line}: {original[mutant.line - 1].strip()}  ->  {changed}')
    yield json.dumps([outcome, f'{mutant.operator} {place}'])


def count(layout: Layout, module: str, sample: int, seed: int) -> Count:
  """Runs a module in a process of its own, as it loads packages.

  Raises:
    ToolError: if its tests fail without a mutant.
  """
  command = [
      *(sys.executable, '-m', 'tools.mutants', module, '--run', layout.beam),
      *('--sample', str(sample), '--seed', str(seed))
  ]
  outcomes, survivors = [], []
  with subprocess.Popen(command,
                        cwd=layout.root,
                        stdout=subprocess.PIPE,
                        text=True) as process:
    for line in process.stdout:
      outcome, mutant = json.loads(line)
      outcomes.append(outcome)
      if outcome == 'survived':
        survivors.append(mutant)
      print(
          f'{module}: {len(outcomes)} {outcome} {mutant}',
          file=sys.stderr,
          flush=True)
  if process.returncode:
    raise ToolError(f'{module}: see above.')
  return Count(module, len(outcomes), len(outcomes) - len(survivors), survivors)


def table(counts: list[Count]) -> str:
  """The counts in Markdown, those that survived below."""
  # Here, as the environment of Cosmic Ray, which prints mutants, has no Beam.
  from apache_beam.transforms.batching.figures import as_markdown
  total = Count(
      'all',
      sum(one.mutants for one in counts),
      sum(one.killed for one in counts), [])
  rows = [('module', 'mutants', 'killed', 'survived', 'share killed')]
  for one in (*counts, total):
    share = f'{one.killed / one.mutants:.0%}' if one.mutants else ''
    rows.append((
        one.module,
        str(one.mutants),
        str(one.killed),
        str(one.mutants - one.killed),
        share))
  lines = [as_markdown(rows)]
  for one in counts:
    lines += [f'\nSurvived in {one.module}:'] if one.survivors else []
    lines += [f'  {mutant}' for mutant in one.survivors]
  return '\n'.join(lines)


def main(argv: list[str]) -> int:
  parser = argparse.ArgumentParser(
      prog='python -m tools.mutants', description=__doc__.splitlines()[0])
  parser.add_argument(
      'modules',
      nargs='*',
      metavar='module',
      help='a part of its name, such as policy/ or cut; all without one')
  parser.add_argument(
      '--sample',
      type=int,
      default=60,
      help='how many places of a module are changed, each once; 0 for all in '
      'all ways (default: %(default)s)')
  parser.add_argument(
      '--seed', type=int, default=0, help='of the sample (default: 0)')
  parser.add_argument(
      '--jobs',
      type=int,
      default=2,
      choices=(1, 2),
      help='modules at once (default: %(default)s)')
  parser.add_argument(
      '--beam', type=Path, help='a tree of Beam instead of build/beam')
  parser.add_argument('--run', type=Path, help=argparse.SUPPRESS)
  parser.add_argument('--print', type=Path, help=argparse.SUPPRESS)
  args = parser.parse_args(argv)
  if args.print:
    print_mutants(args.print, args.sample, args.seed)
    return 0
  beam = args.run or args.beam
  layout = Layout(here().root, beam and beam.resolve())
  if args.run:
    for line in run_module(layout, args.modules[0], args.sample, args.seed):
      print(line, flush=True)
    return 0
  modules = [
      module for module in MODULES
      if not args.modules or any(part in module for part in args.modules)
  ]
  if not modules:
    parser.error(f'no module has {" or ".join(args.modules)} in its name')
  servers.python_of(layout, 'cosmic_ray')
  with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
    counts = [
        *pool.map(
            lambda module: count(layout, module, args.sample, args.seed),
            modules)
    ]
  print(table(counts))
  killed = sum(one.killed for one in counts)
  return int(killed < _LEAST_KILLED * sum(one.mutants for one in counts))


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
