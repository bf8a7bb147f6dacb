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

import unittest

try:
  from apache_beam.testing.inference.models import tiny_model
  from apache_beam.testing.inference.models import tokenizer
  from apache_beam.tools import generation_session_microbenchmark
except ImportError:
  raise unittest.SkipTest('PyTorch or transformers is missing.')


class GenerationSessionMicrobenchmarkTest(unittest.TestCase):
  def test_it_runs(self):
    results = generation_session_microbenchmark.run_benchmark(
        tiny_model(), tokenizer(), num_runs=2, prompts=3, tokens=4)
    self.assertEqual([2, 2], [len(runs) for runs in results.values()])
    for runs in results.values():
      for run in runs:
        self.assertLess(0, run['ttft_p50'])
        self.assertLessEqual(run['ttft_p50'], run['ttft_p95'])
        self.assertLess(run['ttft_p95'], run['total'])


if __name__ == '__main__':
  unittest.main()
