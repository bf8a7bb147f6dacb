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
import os
import tempfile
import unittest

from apache_beam.testing.benchmarks import batching_replay

_KEYS = {
    'elements_in',
    'elements_out',
    'missing',
    'doubled',
    'padding_ratio',
    'cost_ratio',
    'wait_p50',
    'wait_p95',
    'wait_max',
    'latency_p50',
    'latency_p95',
    'elements_per_second',
    'state_reads_per_element',
    'peak_memory_bytes'
}
_NO_WAITS = {key for key in _KEYS if key.startswith(('wait', 'latency'))}


class BatchingReplayTest(unittest.TestCase):
  def _main(self, *args, rows=200):
    out, err = io.StringIO(), io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
      path = os.path.join(folder, 'lengths.csv')
      with open(path, 'w', encoding='utf-8') as file:
        file.writelines(
            ['tokens\n', *(f'{1 + 37 * i % 90}\n' for i in range(rows))])
      with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = batching_replay.main(
            [path, '--column=tokens', '--runner=FnApiRunner', *args])
    return code, out.getvalue(), err.getvalue()

  def test_one_object(self):
    code, out, _ = self._main('--fixed_cost=20', '--max_batch_size=8')
    self.assertEqual(code, 0)
    figures = json.loads(out)
    self.assertEqual(set(figures), _KEYS)
    self.assertEqual(figures['elements_out'], 200)
    self.assertEqual((figures['missing'], figures['doubled']), (0, 0))
    self.assertEqual({k for k in _KEYS if figures[k] is None}, _NO_WAITS)
    self.assertLess(figures['padding_ratio'], figures['cost_ratio'])

  def test_baseline(self):
    _, out, _ = self._main('--fixed_cost=20', '--baseline')
    figures = json.loads(out)
    self.assertEqual(list(figures), ['smart', 'smart_hurried', 'beam_default'])
    for way in figures.values():
      self.assertEqual(set(way), _KEYS)
      self.assertEqual((way['missing'], way['doubled']), (0, 0))
    self.assertLess(
        figures['smart']['cost_ratio'], figures['beam_default']['cost_ratio'])
    self.assertEqual(figures['smart_hurried']['padding_ratio'], 1)

  def test_wrong_input(self):
    for args, message in ((['--streaming'], 'needs --time_column'),
                          (['--fixed_cost=-1'], 'fixed_cost=-1.0: must not'),
                          (['--max_wait_secs=0'], 'max_wait_secs=0.0: must')):
      code, _, err = self._main(*args)
      self.assertEqual(code, 2)
      self.assertIn(message, err)


if __name__ == '__main__':
  unittest.main()
