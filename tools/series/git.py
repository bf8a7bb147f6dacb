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

"""Plain git in a subprocess, apart from the user's own configuration."""

import os
import subprocess
from pathlib import Path

from tools.layout import ToolError

# The same on every machine, so that commits have the same hashes.
_IDENTITY = {
    'GIT_CONFIG_NOSYSTEM': '1',
    'GIT_CONFIG_GLOBAL': os.devnull,
    'GIT_ATTR_NOSYSTEM': '1',
    'GIT_AUTHOR_NAME': 'Apache Beam',
    'GIT_AUTHOR_EMAIL': 'dev@beam.apache.org',
    'GIT_COMMITTER_NAME': 'Apache Beam',
    'GIT_COMMITTER_EMAIL': 'dev@beam.apache.org',
    # What git says is read here, so it must be in English.
    'LC_ALL': 'C',
}
_CONFIG = (
    # Without it git still reads git/attributes of the user, beside the config.
    *('-c', f'core.attributesFile={os.devnull}'),
    # Names as they are, in UTF-8; only odd characters are still quoted.
    *('-c', 'core.quotePath=false'),
)
# Text in and out that keeps every byte, line ends included.
BYTES = ('utf-8', 'surrogateescape')


def environment(**extra: str) -> dict[str, str]:
  """The environment of a git command, without what a hook may have set."""
  env = {k: v for k, v in os.environ.items() if not k.startswith('GIT_')}
  return {**env, **_IDENTITY, **extra}


def run(
    cwd: Path,
    *args: str,
    check: bool = True,
    stdin: str | None = None,
    **extra_env: str) -> subprocess.CompletedProcess:
  """Runs git in cwd; its output is text, byte for byte.

  A repository around cwd is not used: cwd is one, or git works without.

  Raises:
    ToolError: if check is set and git fails.
  """
  env = environment(GIT_CEILING_DIRECTORIES=str(cwd.parent), **extra_env)
  done = subprocess.run(['git', *_CONFIG, *map(str, args)],
                        cwd=cwd,
                        env=env,
                        input=None if stdin is None else stdin.encode(*BYTES),
                        capture_output=True,
                        check=False)
  done.stdout = done.stdout.decode(*BYTES)
  done.stderr = done.stderr.decode(*BYTES)
  if check and done.returncode:
    command = ' '.join(map(str, args))
    said = done.stderr or done.stdout
    raise ToolError(f'git {command} failed in {cwd}:\n{said}')
  return done


def out(cwd: Path, *args: str, **kwargs) -> str:
  """The standard output of a git command, without the last line end."""
  return run(cwd, *args, **kwargs).stdout.rstrip('\n')
