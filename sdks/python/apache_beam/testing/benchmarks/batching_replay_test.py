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

import argparse
import contextlib
import copy
import io
import json
import os
import tempfile
import threading
import time
import unittest
from concurrent import futures
from unittest import mock

from apache_beam.testing.benchmarks import batching_replay
from apache_beam.transforms.batching.advisor.reading import Arrivals
from apache_beam.transforms.batching.options import BatchingOptions
from apache_beam.transforms.batching.policy.least_cost import Cost

_KEYS = {
    'max_batch_size',
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


class _Calls:
  """In the place of sleep: the most calls of it at once."""
  def __init__(self):
    self._lock = threading.Lock()
    self._sleep = time.sleep
    self._now = self.most = 0

  def __call__(self, secs):
    with self._lock:
      self._now += 1
      self.most = max(self.most, self._now)
    self._sleep(secs)
    with self._lock:
      self._now -= 1


class BatchingReplayTest(unittest.TestCase):
  def _main(self, *args, rows=200):
    """Exit status, what was printed and what was complained about."""
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
    code, out, _ = self._main(
        '--fixed_cost=20', '--max_batch_size=8', '--format=json')
    self.assertEqual(code, 0)
    figures = json.loads(out)
    self.assertEqual(set(figures), _KEYS)
    self.assertEqual(figures['elements_out'], 200)
    self.assertEqual((figures['missing'], figures['doubled']), (0, 0))
    self.assertEqual({k for k in _KEYS if figures[k] is None}, _NO_WAITS)
    self.assertLess(figures['padding_ratio'], figures['cost_ratio'])

  def test_baseline(self):
    _, out, err = self._main('--fixed_cost=20', '--baseline', '--format=json')
    figures = json.loads(out)
    ways = ['smart', 'smart_cost', 'beam_default', 'beam_best']
    self.assertEqual(list(figures), ways)
    for number, way in enumerate(ways):
      self.assertEqual(set(figures[way]), _KEYS)
      self.assertEqual((figures[way]['missing'], figures[way]['doubled']),
                       (0, 0))
      self.assertIn(f'{number} of 4 done, now {way} at load 0.1', err)
    self.assertLess(
        figures['smart_cost']['cost_ratio'],
        figures['beam_default']['cost_ratio'])

  def test_loads(self):
    _, out, _ = self._main('--loads=0.2,0.5', '--format=json', rows=40)
    self.assertEqual(list(json.loads(out)), ['0.2', '0.5'])
    code, out, _ = self._main('--loads=0.2,0.5', rows=40)
    self.assertEqual(code, 0)
    head, _, *rows = out.splitlines()
    self.assertIn('| load |   way | size | elements/s |', head)
    self.assertEqual([('0.2', 'smart'), ('0.5', 'smart')],
                     [tuple(row.split()[1:4:2]) for row in rows])

  def test_shards(self):
    with mock.patch.object(batching_replay,
                           'BatchingOptions',
                           wraps=BatchingOptions) as options:
      _, out, _ = self._main('--shards=2', '--format=json')
    self.assertEqual(options.call_args.kwargs['shards'], 2)
    self.assertEqual(json.loads(out)['elements_out'], 200)

  def test_the_model_serves_so_many_calls_at_once(self):
    for concurrency in (1, 3):
      model = batching_replay._Model(Cost(0, 1), 0.05, concurrency)
      copies = [copy.deepcopy(model) for _ in range(3)]
      for each in copies:
        each.setup()
      with mock.patch.object(batching_replay.time, 'sleep', _Calls()) as calls:
        with futures.ThreadPoolExecutor(3) as pool:
          batches = [[(0, 1, 0.0)]] * 12
          tasks = [
              pool.submit(
                  lambda m, b: list(m.process(b)), copies[i % 3], batch)
              for i, batch in enumerate(batches)
          ]
          self.assertEqual(12, sum(len(task.result()) for task in tasks))
      self.assertEqual(concurrency, calls.most)

  def test_best_batch_size_of_2_77(self):
    args = argparse.Namespace(
        fixed_cost=20, max_batch_size=8, max_wait_secs=1.0)
    arrivals = Arrivals([10] * 100, [float(i) for i in range(100)])
    # A model that has the time gets each element on its own.
    way = batching_replay._beam_best(arrivals, 0.1, args, True)
    self.assertEqual(1, way.batch_size)
    # One that has not needs batches: 30 a call of one, 12.5 each in one of 8.
    way = batching_replay._beam_best(arrivals, 0.75, args, True)
    self.assertEqual(8, way.batch_size)

  def test_wrong_input(self):
    for args, message in ((['--streaming'], 'needs --time_column'),
                          (['--fixed_cost=-1'], 'fixed_cost=-1.0: must not'),
                          (['--max_wait_secs=0'], 'max_wait_secs=0.0: must'),
                          (['--loads=1,x'], "--loads=1,x: could not convert"),
                          (['--loads=1,-1'], '--loads=1,-1: must not be'),
                          (['--model_concurrency=0'], 'model_concurrency=0'),
                          (['--shards=0'], 'shards=0')):
      code, _, err = self._main(*args)
      self.assertEqual(code, 2)
      self.assertIn(message, err)


if __name__ == '__main__':
  unittest.main()
