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

"""Tests of how programs that run pipelines read arguments and end."""

import os
import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from apache_beam.utils import command_line

# Programs, as the body of main().
_WAITS = 'print("runs", flush=True); time.sleep(600)'
_IN_C = '''
  print("runs", flush=True)
  # The main thread runs no handler of Python's meanwhile.
  import ctypes
  libc = ctypes.CDLL(None)
  libc.sleep(300)
  libc.sleep(300)
'''
_STUBBORN = '''
  import atexit
  atexit.register(lambda: print("exit hook", file=sys.stderr))

  def fail():
    try:
      time.sleep(0.3)
      raise ValueError('a thread was cut off')
    finally:
      time.sleep(600)

  threading.Thread(target=fail).start()
  print("runs", flush=True)
  try:
    time.sleep(600)
  except KeyboardInterrupt:
    raise RuntimeError('job failed: KeyboardInterrupt')
'''
_OTHER_HANDLER = '''
  # As a runner does, which stops its server first.
  before = signal.getsignal(signal.SIGINT)

  def stop(*args):
    threading.Event().wait(600)
    before(*args)

  signal.signal(signal.SIGINT, stop)
  print("runs", flush=True)
  time.sleep(600)
'''
_PIPELINE = '''
  def check(element):
    raise command_line.UsageError(f'texts.jsonl, line {element}: no text.')

  with beam.Pipeline('FnApiRunner') as p:
    _ = p | beam.Create([7]) | beam.Map(check)
'''


def _start(body: str, on_interrupt='default_int_handler', **kwargs):
  """A program that begins with a handler of SIGINT, whatever it inherits."""
  if not body.startswith('\n'):
    body = f'\n  {body}\n'
  code = (
      'import signal, sys, threading, time\n'
      f'signal.signal(signal.SIGINT, signal.{on_interrupt})\n'
      'import apache_beam as beam\n'
      'from apache_beam.utils import command_line\n'
      f'def main():{body}\n'
      'command_line.run(main)\n')
  return subprocess.Popen([sys.executable, '-c', code],
                          stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE,
                          text=True,
                          **kwargs)


class InterruptTest(unittest.TestCase):
  def test_one_line_and_the_status_of_shells(self):
    for body in (_WAITS, _IN_C, _STUBBORN, _OTHER_HANDLER):
      with self.subTest(body=body), _start(body) as program:
        try:
          self.assertEqual(program.stdout.readline(), 'runs\n')
          program.send_signal(signal.SIGINT)
          # Far less than it sleeps.
          _, errors = program.communicate(timeout=60)
        finally:
          program.kill()
        self.assertEqual(program.returncode, 130)
        self.assertEqual(errors.splitlines()[-1:], ['Interrupted.'])
        self.assertNotIn('Traceback', errors)

  def test_a_job_in_the_background_of_a_shell_goes_on(self):
    body = 'print("runs", flush=True); sys.stdin.read(); print("done")'
    with _start(body, 'SIG_IGN', stdin=subprocess.PIPE) as program:
      self.assertEqual(program.stdout.readline(), 'runs\n')
      program.send_signal(signal.SIGINT)
      printed, _ = program.communicate('go on', timeout=60)
    self.assertEqual((program.returncode, printed), (0, 'done\n'))


class ErrorTest(unittest.TestCase):
  def _end(self, body):
    with _start(body) as program:
      _, errors = program.communicate(timeout=60)
    return program.returncode, errors

  def test_usage_errors_are_one_line_wherever_they_are_raised(self):
    status, errors = self._end(
        'raise command_line.UsageError("--input: there is no such file.")')
    self.assertEqual(status, 2)
    self.assertTrue(
        errors.endswith('-c: --input: there is no such file.\n'), errors)
    status, errors = self._end(_PIPELINE)
    self.assertEqual(status, 2)
    self.assertTrue(errors.endswith('-c: texts.jsonl, line 7: no text.\n'))
    self.assertNotIn('Traceback', errors)

  def test_other_errors_keep_their_traceback(self):
    status, errors = self._end('raise ValueError("ours")')
    self.assertEqual(status, 1)
    self.assertIn('Traceback', errors)
    self.assertTrue(errors.endswith('ValueError: ours\n'))

  def test_logs_are_of_the_program(self):
    _, errors = self._end(
        'import logging; logging.info("runner"); '
        'logging.warning("care"); logging.getLogger("__main__").info("mine")')
    self.assertEqual(errors, 'WARNING:root:care\nINFO:__main__:mine\n')

  def test_a_status(self):
    self.assertEqual(self._end('return 3')[0], 3)
    self.assertEqual(self._end('pass')[0], 0)


class ModelTest(unittest.TestCase):
  def test_models_that_are_not_there(self):
    with tempfile.TemporaryDirectory() as folder:
      for name, message in ((folder, 'the folder holds no config.json'),
                            ('./none', 'there is no such folder'),
                            ('/no/folder', 'there is no such folder'),
                            ('build/models/none', 'there is no such folder')):
        with self.assertRaisesRegex(
            command_line.UsageError,
            rf'--model={name}: {message}\. Give the folder of a Hugging Face'):
          command_line.check_model(name)

  def test_what_transformers_says(self):
    auto = mock.Mock()
    auto.AutoConfig.from_pretrained.side_effect = OSError('Not found.\nLong')
    with mock.patch.dict(sys.modules, {'transformers': auto}):
      with self.assertRaisesRegex(command_line.UsageError,
                                  '--m=org/name: Not found. Give the folder'):
        command_line.check_model('org/name', '--m')
    with mock.patch.dict(sys.modules, {'transformers': None}):
      command_line.check_model('org/name')


class ParseTest(unittest.TestCase):
  def setUp(self):
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.addCleanup(os.chdir, os.getcwd())
    os.chdir(folder.name)
    # Where no Prism is.
    path = mock.patch.dict(os.environ, {'PATH': folder.name})
    path.start()
    self.addCleanup(path.stop)

  def _parse(self, *argv):
    parser = command_line.make_parser(
        'some.module', 'Does ``so``::\n\n  as here')
    parser.add_argument('--max_tokens', type=int, default=8, help='of a text')
    parser.add_argument('--model', help='a folder')
    self.help = parser.format_help()
    return command_line.parse(parser, argv)

  def _make_prism(self, path):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).touch(0o755)

  def test_help(self):
    self._parse()
    self.assertIn('usage: python -m some.module ', self.help)
    self.assertIn('Does so:\n\n  as here', self.help)
    self.assertIn('of a text (default: 8)', self.help)
    self.assertIn('a folder\n', self.help)

  def test_arguments_and_flags(self):
    args, flags = self._parse('--max_tokens=3', '--runner=FlinkRunner', '--xy')
    self.assertEqual(args.max_tokens, 3)
    self.assertEqual(flags, ['--runner=FlinkRunner', '--xy'])

  def test_options_that_are_misspelt(self):
    for wrong, right in (
        ('--max_tokns=3', '--max_tokens'), ('--runer=X', '--runner'),
        ('--experimets=smart_bucketing', '--experiments')):
      with self.assertRaisesRegex(
          command_line.UsageError,
          f'{wrong.partition("=")[0]}: there is no such option. Try {right}.'):
        self._parse(wrong)

  def test_no_prism_is_downloaded_unless_it_is_asked_for(self):
    self.assertEqual(self._parse()[1], ['--runner=FnApiRunner'])
    self.assertEqual(
        self._parse('--runner=PrismRunner')[1], ['--runner=PrismRunner'])

  def test_prism_is_found(self):
    self._make_prism('prism')
    for flags in ([], ['--runner=PrismRunner'], ['--runner=DirectRunner']):
      self.assertEqual(
          self._parse(*flags)[1],
          [*flags, f'--prism_location={os.environ["PATH"]}/prism'])
    self._make_prism('build/bin/prism')
    self.assertEqual(self._parse()[1], ['--prism_location=build/bin/prism'])
    self.assertEqual(
        self._parse('--runner=FnApiRunner')[1], ['--runner=FnApiRunner'])
    given = ['--runner=PrismRunner', '--prism_location=prism']
    self.assertEqual(self._parse(*given)[1], given)
    given[1] = '--prism_location=https://example.org/prism'
    self.assertEqual(self._parse(*given)[1], given)

  def test_prism_that_is_not_there(self):
    for flags in ([], ['--runner=PrismRunner']):
      with self.assertRaisesRegex(
          command_line.UsageError,
          '--prism_location=/no/prism: there is no such file. Build one with'):
        self._parse(*flags, '--prism_location=/no/prism')


if __name__ == '__main__':
  unittest.main()
