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

"""Runs the tests of this repository and those that the series adds.

    build/venv/bin/python -m tools.tests [pytest arguments]
"""

import subprocess
import sys

from tools.layout import Layout
from tools.layout import here
from tools.series import tree


def added_tests(layout: Layout) -> list[str]:
  """The test files that the commits of build/beam add."""
  source = layout.beam / 'sdks' / 'python'
  names = tree.python_files(layout.beam, 'A', '*_test.py')
  return [str(source / name) for name in names]


def main(argv: list[str]) -> int:
  layout = here()
  pytest = [
      *(sys.executable, '-m', 'pytest', '-q', '-n', '2'),
      *('-p', 'tools.hypothesis_profiles')
  ]
  # Apart, because each side has a conftest and a root of its own.
  ours = subprocess.call([*pytest, 'tests', *argv], cwd=layout.root)
  series = subprocess.call([*pytest, *added_tests(layout), *argv],
                           cwd=layout.root)
  return ours or series


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
