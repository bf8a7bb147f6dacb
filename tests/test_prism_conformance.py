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

"""The conformance suite on Prism in streaming, where all of it applies."""

import json
import subprocess
import sys
from pathlib import Path


def test_what_needs_streaming_holds_on_prism(prism: Path):
  done = subprocess.run([
      *(sys.executable, '-m', 'apache_beam.testing.inference_conformance'),
      *('--runner=PrismRunner', f'--prism_location={prism}', '--streaming'),
      '--cases=batch-waits,batch-zero-lateness,durable-first-chunk,'
      'durable-out-of-step',
      '--timer_secs=30',
      '--format=json',
  ],
                        capture_output=True,
                        text=True,
                        check=False)
  rows = json.loads(done.stdout)
  assert {row['state'] for row in rows} == {'holds'}, rows
  assert done.returncode == 0
