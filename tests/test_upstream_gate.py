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

"""The gate on upstream's own tests: what it accepts, and that flags arrive."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tools import upstream_tests
from tools.layout import here

_PROBE = '''
from apache_beam.options.pipeline_options import DebugOptions
from apache_beam.testing.test_pipeline import TestPipeline


def test_probe():
  options = TestPipeline().options.view_as(DebugOptions)
  assert options.lookup_experiment('smart_bucketing') is {smart}
  assert options.lookup_experiment('iterative_inference') is {iterative}
'''


@pytest.mark.parametrize(
    'name, arrives', [('flags off', None), ('flags on', True)])
def test_flags_reach_every_test_pipeline(name, arrives, tmp_path: Path):
  probe = tmp_path / 'probe_test.py'
  probe.write_text(_PROBE.format(smart=arrives, iterative=arrives))
  done = subprocess.run([
      *(sys.executable, '-m', 'pytest', '-q', '-n', '1'),
      *('-p', 'no:cacheprovider', '-p', 'tools.pipeline_options'),
      str(probe)
  ],
                        cwd=here().root,
                        env={
                            **os.environ,
                            'TEST_PIPELINE_OPTIONS': upstream_tests.FLAGS[name]
                        },
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        text=True,
                        check=False)
  assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    'line, good',
    [('274 passed, 7 skipped, 29 warnings in 137.94s (0:02:17)', True),
     ('274 passed, 7 skipped in 9.00s', True),
     ('1 failed, 273 passed, 7 skipped in 9.00s', False),
     ('274 passed, 8 skipped in 9.00s', False),
     ('274 passed, 7 skipped, 1 error in 9.00s', False),
     ('274 passed, 7 skipped, 1 xfailed in 9.00s', False),
     ('no tests ran in 0.01s', False)])
def test_only_the_counts_of_the_release_pass(line: str, good: bool):
  assert upstream_tests.as_expected(line) is good
