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

"""The wheel of the patched SDK, in an environment without build/."""

import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
from tests.test_readme import prints_what_stands_below
from tests.test_readme import snippets
from tools import wheel
from tools.layout import here
from tools.series import upstream

_SITE = Path('lib') / f'python{sys.version_info[0]}.{sys.version_info[1]}'
_EDITABLE = here().build / 'venv' / _SITE / 'site-packages'


@pytest.fixture(name='made', scope='module')
def _made() -> Path:
  return wheel.make(here())


@pytest.fixture(name='python', scope='module')
def _python(made: Path, tmp_path_factory) -> Path:
  """A fresh environment with the wheel.

  What Beam depends on is not installed again, as torch alone takes minutes: it
  is read from build/venv. The editable Beam there is not, since Python follows
  the .pth files of an environment's own folder alone.
  """
  folder = tmp_path_factory.mktemp('fresh')
  subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder],
                 check=True)
  python = folder / 'bin' / 'python'
  subprocess.run([
      *(sys.executable, '-m', 'pip', '--disable-pip-version-check'),
      *(
          '--python',
          python,
          'install',
          '-q',
          '--no-index',
          '--no-deps',
          '--no-compile',
          made)
  ],
                 check=True)
  site = folder / _SITE / 'site-packages'
  (site / 'dependencies.pth').write_text(f'{_EDITABLE}\n')
  return python


def test_it_has_the_series_and_what_the_release_needs(made: Path):
  version = upstream.read_pin(here()).version
  name = f'apache_beam-{version}'
  with zipfile.ZipFile(made) as content:
    files = set(content.namelist())
    (info, ) = {file.split('/')[0]
                for file in files if '.dist-info/' in file}
    metadata = message_from_string(content.read(f'{info}/METADATA').decode())
  assert metadata['Version'].startswith(f'{version}+series.')
  assert made.name.startswith(f'apache_beam-{metadata["Version"]}-')
  assert 'none-any' not in made.name
  assert 'apache_beam/transforms/batching/__init__.py' in files
  assert 'apache_beam/ml/inference/iterative/__init__.py' in files
  editable = message_from_string(
      (_EDITABLE / f'{name}.dist-info' / 'METADATA').read_text())
  needs = metadata.get_all('Requires-Dist')
  assert needs and needs == editable.get_all('Requires-Dist')
  source = here().beam / 'sdks' / 'python'
  compiled = {
      path.relative_to(source).as_posix()
      for path in (source / 'apache_beam').rglob('*.so')
  }
  assert compiled and compiled <= files


def test_it_is_made_once_for_a_tree(made: Path):
  before = made.stat().st_mtime_ns
  assert wheel.make(here()) == made
  assert made.stat().st_mtime_ns == before


def test_it_is_what_a_fresh_environment_runs(python: Path):
  code = (
      'import apache_beam, importlib.metadata\n'
      'from apache_beam.coders import coder_impl\n'
      'print(coder_impl.__file__)\n'
      'print(apache_beam.__version__)\n'
      'print(importlib.metadata.version("apache-beam"))')
  done = subprocess.run([python, '-c', code],
                        capture_output=True,
                        text=True,
                        check=True)
  module, version, installed = done.stdout.splitlines()
  assert Path(module).is_relative_to(python.parents[1]) and '.so' in module
  # Beam names container images and Prism's download by this one.
  assert version == upstream.read_pin(here()).version
  assert installed.startswith(f'{version}+series.')


@pytest.mark.parametrize('snippet', snippets(here().root / 'README.md'))
def test_the_snippets_of_the_readme_run_there(python: Path, snippet):
  prints_what_stands_below(snippet, python)


def test_the_image_for_workers_is_that_of_the_release():
  text = (here().root / 'containers' / 'Dockerfile').read_text()
  version = upstream.read_pin(here()).version
  assert f'\nFROM apache/beam_python3.11_sdk:{version}\n' in text
  assert f'COPY apache_beam-{version}+series.*' in text
