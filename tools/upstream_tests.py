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

"""Upstream's own tests on the patched SDK, flags off and flags on.

    build/venv/bin/python -m tools.upstream_tests

Prints both closing lines of pytest. They must be those of the released SDK in
the same environment, or the pull request that changes them says why.
"""

import os
import re
import subprocess
import sys

from tools.layout import here

MODULES = (
    'apache_beam.transforms.util_test',
    'apache_beam.ml.inference.base_test',
    'apache_beam.ml.inference.pytorch_inference_test',
    'apache_beam.ml.inference.huggingface_inference_test',
    'apache_beam.ml.inference.vllm_inference_test',
)
# What pytest says of them on the released 2.77.0.
EXPECTED = '274 passed, 7 skipped'
FLAGS = {
    'flags off': '',
    'flags on': (
        '--experiments=smart_bucketing --experiments=iterative_inference'),
}


def run(pipeline_options: str) -> tuple[str, str]:
  """Runs the modules; returns all output and pytest's closing line."""
  done = subprocess.run([
      *(sys.executable, '-m', 'pytest', '-q', '-n', '2', '-rs'),
      *('-p', 'no:cacheprovider', '-p', 'tools.pipeline_options'),
      *('--pyargs', *MODULES)
  ],
                        cwd=here().root,
                        env={
                            **os.environ,
                            'TEST_PIPELINE_OPTIONS': pipeline_options
                        },
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        text=True,
                        check=False)
  return done.stdout, done.stdout.rstrip().splitlines()[-1]


def as_expected(closing_line: str) -> bool:
  """Whether a closing line has the counts of the released SDK, and no more.

  Warnings and the time vary.
  """
  counts = re.findall(
      r'\d+ (?:passed|skipped|failed|errors?|x\w+)', closing_line)
  return ', '.join(counts) == EXPECTED


def main() -> int:
  lines = {}
  for name, options in FLAGS.items():
    output, lines[name] = run(options)
    if not as_expected(lines[name]):
      print(output)
  print(f'expected:  {EXPECTED}')
  for name, line in lines.items():
    print(f'{name}: {line}')
  return 0 if all(map(as_expected, lines.values())) else 1


if __name__ == '__main__':
  sys.exit(main())
