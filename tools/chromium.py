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

"""A headless Chromium, for tests of web pages; installs it on Debian.

    python3 -m tools.chromium

installs the package if there is no such browser. Driven by DevTools' protocol
through a pipe, it needs no driver, no port and no package of Python's.
"""

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tools.layout import ToolError

_NAMES = ('chromium', 'chromium-browser', 'google-chrome')
_FLAGS = (
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--disable-dev-shm-usage',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--remote-debugging-pipe',
)
_INSTALL = (
    ('apt-get', 'update', '-q'),
    ('apt-get', 'install', '-q', '-y', '--no-install-recommends', 'chromium'),
)
_TIMEOUT_SECS = 60


def find() -> str | None:
  """The program, if it is installed."""
  return next(filter(None, map(shutil.which, _NAMES)), None)


def install() -> None:
  """Installs it, where it is missing and packages are Debian's.

  Raises:
    ToolError: if that fails.
  """
  if find():
    return
  environment = {**os.environ, 'DEBIAN_FRONTEND': 'noninteractive'}
  as_root = [] if os.geteuid() == 0 else ['sudo', '-n']
  for command in _INSTALL:
    try:
      subprocess.run([*as_root, *command], env=environment, check=True)
    except (OSError, subprocess.CalledProcessError) as e:
      raise ToolError(
          f'Chromium is missing, and {" ".join(command)} failed: {e}. Install '
          'Chromium or Chrome.') from e


class Browser:
  """One page in a Chromium of its own, with a profile of its own.

  Args:
    width, height: of the window, in pixels.
    is_dark: what the page is told that the user prefers.

  Raises:
    ToolError: if there is no Chromium, or it stops answering.
  """
  def __init__(
      self, width: int = 1200, height: int = 1000, is_dark: bool = False):
    program = find()
    if program is None:
      raise ToolError('Chromium is missing. Install Chromium or Chrome.')
    self._profile = tempfile.mkdtemp(prefix='chromium-')
    self._numbers = 0
    self._unread = b''
    self._problems: list[str] = []
    self._session = None
    self._start(program)
    try:
      self._open_tab(width, height, is_dark)
    except BaseException:
      self._stop()
      raise

  def _open_tab(self, width, height, is_dark):
    target = self._call('Target.createTarget', url='about:blank')['targetId']
    self._session = self._call(
        'Target.attachToTarget', targetId=target, flatten=True)['sessionId']
    for domain in ('Page', 'Runtime', 'Log'):
      self._call(f'{domain}.enable')
    scheme = {
        'name': 'prefers-color-scheme', 'value': 'dark' if is_dark else 'light'
    }
    self._call('Emulation.setEmulatedMedia', features=[scheme])
    self._call(
        'Emulation.setDeviceMetricsOverride',
        width=width,
        height=height,
        deviceScaleFactor=1,
        mobile=False)

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self._stop()

  @property
  def problems(self) -> list[str]:
    """What the page's script raised, and what the browser refused it."""
    self.evaluate('0')
    return list(self._problems)

  def open(self, url: str) -> None:
    self._call('Page.navigate', url=url)

  def evaluate(self, expression: str) -> Any:
    """The value of an expression, or of its promise, as JSON has it."""
    answer = self._call(
        'Runtime.evaluate',
        expression=expression,
        returnByValue=True,
        awaitPromise=True)
    if 'exceptionDetails' in answer:
      raise ToolError(f'{expression}: {answer["exceptionDetails"]}')
    return answer['result'].get('value')

  def screenshot(self, path: Path) -> None:
    answer = self._call('Page.captureScreenshot', format='png')
    path.write_bytes(base64.b64decode(answer['data']))

  def _start(self, program):
    its_in, self._to = os.pipe()
    self._from, its_out = os.pipe()
    # It reads from 3 and writes to 4, which must not be in use before.
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (its_in, its_out)]
    self._process = subprocess.Popen(  # pylint: disable=consider-using-with
        [
            *('bash', '-c', f'exec "$0" "$@" 3<&{high[0]} 4>&{high[1]}', program),
            *_FLAGS,
            f'--user-data-dir={self._profile}',
        ],
        pass_fds=high,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True)
    for fd in (its_in, its_out, *high):
      os.close(fd)

  def _stop(self):
    self._session = None
    with contextlib.suppress(ToolError, OSError, subprocess.TimeoutExpired):
      self._call('Browser.close')
      self._process.wait(_TIMEOUT_SECS)
    # Its helpers are of its group, and may be slower.
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self._process.pid, signal.SIGKILL)
    self._process.wait()
    os.close(self._to)
    os.close(self._from)
    shutil.rmtree(self._profile, ignore_errors=True)

  def _call(self, method, **params):
    self._numbers += 1
    message = {'id': self._numbers, 'method': method, 'params': params}
    if self._session is not None:
      message['sessionId'] = self._session
    os.write(self._to, json.dumps(message).encode() + b'\0')
    deadline = time.monotonic() + _TIMEOUT_SECS
    while True:
      answer = self._read(method, deadline)
      if answer.get('id') == self._numbers:
        if 'error' in answer:
          raise ToolError(f'Chromium, {method}: {answer["error"]}')
        return answer['result']
      if answer.get('method') == 'Runtime.exceptionThrown':
        self._problems.append(str(answer['params']['exceptionDetails']))
      elif answer.get('method') == 'Log.entryAdded':
        self._problems.append(answer['params']['entry']['text'])

  def _read(self, method, deadline):
    while b'\0' not in self._unread:
      ready, _, _ = select.select(
          [self._from], [], [], max(0, deadline - time.monotonic()))
      more = os.read(self._from, 1 << 16) if ready else b''
      if not more:
        raise ToolError(f'Chromium does not answer to {method}.')
      self._unread += more
    one, _, self._unread = self._unread.partition(b'\0')
    return json.loads(one)


def main() -> int:
  try:
    install()
  except ToolError as e:
    print(e, file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main())
