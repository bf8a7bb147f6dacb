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

"""The code of README.md runs and prints what README.md says."""

import re
import subprocess
import sys

from tools.layout import here


def test_the_example_prints_what_stands_below_it():
  root = here().root
  readme = (root / 'README.md').read_text(encoding='utf-8')
  code, printed = re.search(
      r'```python\n(.*?)```.*?```text\n(.*?)```', readme, re.DOTALL).groups()
  done = subprocess.run([sys.executable, '-c', code],
                        cwd=root,
                        capture_output=True,
                        text=True,
                        check=False)
  assert done.returncode == 0, done.stderr
  # A runner may print results in any order.
  assert sorted(done.stdout.splitlines()) == sorted(printed.splitlines())
