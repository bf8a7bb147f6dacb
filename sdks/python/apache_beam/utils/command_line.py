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

"""How programs that run pipelines read their arguments and end.

A program has a parser of its own arguments, and leaves the others to Beam::

  parser = command_line.make_parser('package.module', __doc__)
  parser.add_argument(...)
  args, flags = command_line.parse(parser, argv)
  ...
  if __name__ == '__main__':
    command_line.run(main)

A ``UsageError`` ends it with one line and the status 2, wherever it is raised,
and Ctrl-C with one line and the status 130.
"""

import argparse
import atexit
import difflib
import logging
import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.pipeline_options import PrismRunnerOptions
from apache_beam.options.pipeline_options import StandardOptions

_USAGE_STATUS = 2
_INTERRUPT_STATUS = 128 + signal.SIGINT
# For what stops runners, removes files and ends threads.
_GRACE_SECS = 2
# Loggers whose messages below warnings are shown, and those whose warnings are
# not: they say which processes a runner starts and stops.
_TELLING = (
    '__main__',
    'apache_beam.examples',
    'apache_beam.ml.inference',
    'apache_beam.transforms.batching')
_SILENT = (
    'apache_beam.utils.subprocess_server',
    'apache_beam.runners.worker.worker_pool_main')


class UsageError(ValueError):
  """What a user can mend: the message names the option or file, and the remedy.

  A program ends with the message alone, even if a worker raises it.
  """


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
  """Keeps the lines of a description, and says each default."""
  def _get_help_string(self, action):
    text = action.help or ''
    if action.default in (None, False, argparse.SUPPRESS,
                          ()) or ('default' in text.lower()):
      return text
    return f'{text} (default: %(default)s)'.strip()


def make_parser(module: str, doc: str) -> argparse.ArgumentParser:
  """A parser whose help names the module and shows its docstring."""
  return argparse.ArgumentParser(
      prog=f'python -m {module}',
      description=doc.replace('::\n', ':\n').replace('``', ''),
      formatter_class=_HelpFormatter)


def parse(parser: argparse.ArgumentParser,
          argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
  """Parses a program's own arguments; returns them and the flags for Beam.

  Without ``--prism_location`` the flags name the Prism in build/bin or on PATH.
  Without ``--runner`` too they name the FnApiRunner where there is no Prism,
  since Beam's default would download one.

  Raises:
    UsageError: if an option resembles another one, or if there is nothing at
      ``--prism_location``.
  """
  args, flags = parser.parse_known_args(argv)
  _check_spelling(parser, flags)
  return args, _with_local_prism(flags)


def _check_spelling(parser, flags):
  parsers = [parser]
  PipelineOptions([]).get_all_options(add_extra_args_fn=parsers.append)
  known = [
      name for one in parsers for action in one._actions
      for name in action.option_strings
  ]
  for flag in flags:
    name = flag.partition('=')[0]
    if name.startswith('--') and name not in known:
      # Others may be the runner's, to which Beam hands them on.
      for near in difflib.get_close_matches(name, known, n=1, cutoff=0.85):
        raise UsageError(f'{name}: there is no such option. Try {near}.')


def _with_local_prism(flags):
  options = PipelineOptions(flags)
  runner = options.view_as(StandardOptions).runner
  location = options.view_as(PrismRunnerOptions).prism_location
  # Beam's DirectRunner tries Prism first.
  if (runner or 'DirectRunner').lower() not in ('directrunner', 'prismrunner'):
    return flags
  if location:
    if '://' not in location and not os.path.exists(location):
      raise UsageError(
          f'--prism_location={location}: there is no such file. Build one with '
          '`go install github.com/apache/beam/sdks/v2/go/cmd/prism`, or leave '
          'the option out: Beam then downloads its own.')
    return flags
  found = _find_prism()
  if found:
    return [*flags, f'--prism_location={found}']
  return flags if runner else [*flags, '--runner=FnApiRunner']


def _find_prism() -> str | None:
  built = Path('build') / 'bin' / 'prism'
  return str(built) if built.is_file() else shutil.which('prism')


def check_model(name: str, option: str = '--model') -> None:
  """Reads the configuration of a Hugging Face model, a folder or a name.

  Where transformers is not installed, only paths are checked.

  Raises:
    UsageError: if there is no such model.
  """
  problem = None
  if os.path.isdir(name):
    if not os.path.exists(os.path.join(name, 'config.json')):
      problem = 'the folder holds no config.json'
  elif os.path.isabs(name) or name[0] in '.~' or name.count('/') > 1:
    problem = 'there is no such folder'
  if problem is None:
    try:
      from transformers import AutoConfig
      AutoConfig.from_pretrained(name)
    except ImportError:
      pass
    except (OSError, ValueError) as e:
      problem = str(e).strip().partition('\n')[0].rstrip('.')
  if problem:
    raise UsageError(
        f'{option}={name}: {problem}. Give the folder of a Hugging Face model, '
        'or its name on the Hub, such as HuggingFaceTB/SmolLM2-135M-Instruct.')


def run(
    main: Callable[[], int | None], log_level: int = logging.INFO) -> NoReturn:
  """Runs a program, and ends the process with its status.

  Args:
    main: the program; None is the status 0.
    log_level: of the root logger. Below warnings only messages of the program,
      of inference and of batching are shown.
  """
  logging.basicConfig(level=log_level)
  logging.getLogger().setLevel(log_level)
  for handler in logging.getLogger().handlers:
    handler.addFilter(_is_worth_a_line)
  interrupts = _Interrupts()
  try:
    status = main() or 0
  except KeyboardInterrupt:
    interrupts.announce()
    status = _INTERRUPT_STATUS
  except Exception as e:  # pylint: disable=broad-except
    message = _usage_message(e)
    if message is None and not interrupts.announced:
      raise
    print(f'{_program()}: {message}', file=sys.stderr)
    status = _USAGE_STATUS
  if interrupts.announced:
    interrupts.end()
  sys.exit(status)


def _is_worth_a_line(record):
  if record.levelno < logging.WARNING:
    return record.name.startswith(_TELLING)
  if record.levelno < logging.ERROR and record.name in _SILENT:
    return False
  # A worker logs the traceback of a UsageError, and the runner once more.
  return not (
      record.exc_info and isinstance(record.exc_info[1], UsageError) or
      'UsageError: ' in record.getMessage())


def _usage_message(error: Exception) -> str | None:
  """That of a UsageError, which a runner may hand on as text only."""
  text = f'UsageError: {error}' if isinstance(error, UsageError) else str(error)
  # A worker appends the name of the step.
  found = re.findall(
      r'UsageError: (.*?)(?: \[while running .*)?$', text, flags=re.MULTILINE)
  return found[-1] if found else None


def _program() -> str:
  path = Path(sys.argv[0])
  return path.parent.name if path.stem == '__main__' else path.stem


class _Interrupts:
  """Says so once at Ctrl-C, and bounds the time to the end of the process.

  What threads and destructors print after that is of no use to anybody, so it
  is dropped. The bound is kept by a thread which the signal wakes, whatever the
  main thread waits for and whichever handler a runner has set.
  """
  def __init__(self):
    self._once = threading.Lock()
    # The jobs that a shell runs in the background ignore it.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
      return
    self._errors = os.dup(sys.__stderr__.fileno())
    signal.signal(signal.SIGINT, self._raise)
    self._wake, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    self._wakes = wakes
    threading.Thread(target=self._watch, name='Interrupts', daemon=True).start()

  @property
  def announced(self) -> bool:
    return self._once.locked()

  def announce(self) -> None:
    """Tells the user, and drops what is printed from now on."""
    if self._once.acquire(blocking=False):
      nothing = os.open(os.devnull, os.O_WRONLY)
      os.dup2(nothing, sys.__stderr__.fileno())
      # A terminal shows ^C at its cursor.
      start = b'\n' if os.isatty(self._errors) else b''
      os.write(self._errors, start + b'Interrupted.\n')

  def end(self) -> NoReturn:
    """Calls exit hooks, which stop servers, and waits for no thread."""
    try:
      atexit._run_exitfuncs()  # pylint: disable=protected-access
    finally:
      os._exit(_INTERRUPT_STATUS)

  def _raise(self, unused_signal, unused_frame):
    self.announce()
    raise KeyboardInterrupt

  def _watch(self):
    while self._wake.recv(1) != bytes([signal.SIGINT]):
      pass
    self.announce()
    time.sleep(_GRACE_SECS)
    os._exit(_INTERRUPT_STATUS)
