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

import contextlib
import io
import json
import unittest

from apache_beam.testing.benchmarks import iterative_inference_overhead as overhead


def _main(*args):
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    code = overhead.main([*args, '--runner=FnApiRunner'])
  return code, out.getvalue(), err.getvalue()


class IterativeInferenceOverheadTest(unittest.TestCase):
  def test_figures(self):
    _, out, _ = _main('--prompts=20', '--pairs=1', '--elements=100')
    found = json.loads(out)
    self.assertEqual(set(found['chunk_cpu_msec']), {'in_bundle', 'durable'})
    for spread in (*found['chunk_cpu_msec'].values(), found['flag_on']):
      self.assertEqual(set(spread), {'median', 'least', 'most'})
    self.assertGreater(found['flag_on']['least'], 0)
    sizes = found['chunk_bytes']
    self.assertLessEqual(sizes['largest'], 100)
    self.assertLess(sizes['largest_not_last'], sizes['largest'])
    self.assertLess(sizes['mean'], sizes['largest'])

  def test_wrong_arguments(self):
    code, _, err = _main('--pairs=0')
    self.assertEqual(code, 2)
    self.assertIn('pairs=0: must be positive', err)


if __name__ == '__main__':
  unittest.main()
