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

"""The tables of the benchmarks, from figures made up by hand, and the command
that runs them."""

import shlex
import subprocess
import unittest

import numpy as np
from tools.bench import iterative
from tools.bench import model
from tools.bench import overhead
from tools.bench import peers
from tools.layout import ToolError
from tools.layout import here


class ModelTableTest(unittest.TestCase):
  def test_ratios_by_pairs_and_by_padding(self):
    setting = {'batch_size': 4, 'kind': 'geometric 32'}
    table = model.table({
        'texts': 5,
        'rates': {
            model.FIXED: [1.0, 2.0, 4.0],
            model.FLAG_ON: [4.0, 8.0, 12.0],
            model.ENCODE: [4.0, 4.0, 4.0],
        },
        'padding': {
            model.FIXED: [3.06], model.FLAG_ON: [1.02]
        },
        'tuned': setting,
        'default_buckets': setting,
        'largest_difference': 1e-7,
    })
    rows = table.splitlines()
    self.assertEqual(
        f'| {model.FIXED} | 2.0 | 1.0 to 4.0 | 3.06 | 3.00 | 4.00 | 3.00 |',
        rows[2])
    self.assertEqual(
        f'| {model.ENCODE} | 4.0 | 4.0 to 4.0 |  | 1.00 | 2.00 |  |', rows[4])
    self.assertEqual(rows[0].count('|'), rows[1].count('|'))

  def test_texts_of_one_length(self):
    table = model.one_length_table({
        'texts': 5,
        'rates': {
            model.FLAG_OFF: [10.0, 8.0, 10.0], model.FLAG_ON: [10.0, 10.0, 9.0]
        }
    })
    self.assertIn(
        f'| {model.FLAG_OFF} | 10.0 | 8.0 to 10.0 | 1.00 | 0.90 to 1.25 |',
        table)


class OverheadTableTest(unittest.TestCase):
  def test_what_only_the_series_has_is_held_against_the_global_window(self):
    table = overhead.table([
        overhead.Figure('by_length', 'series', [4.0, 6.0]),
        overhead.Figure('global_window', 'released', [0.5, 0.5]),
    ])
    self.assertIn('| by_length | series | 5.00 | 4.00 to 6.00 | 10.00 |', table)


class PeersTest(unittest.TestCase):
  def _way(self, rates, padding_ratio):
    return {
        'texts_per_second': sorted(rates)[len(rates) // 2],
        'wall_secs': 12.34,
        'padding_ratio': padding_ratio,
        'largest_difference': 2e-7,
        'rates': rates,
    }

  def test_ratios_by_rounds(self):
    table = peers.table({
        'texts': 5,
        'ways': {
            'encode_32': self._way([4.0, 5.0, 2.0], 1.31),
            'ray_data': self._way([2.0, 2.0, 2.0], None),
            'smart_mltransform': self._way([8.0, 5.0, 3.0], 1.02),
            'smart_tensors': self._way([4.0, 4.0, 4.0], 1.03),
            'smart_onnx': self._way([8.0, 15.0, 4.0], 1.04),
        }
    })
    rows = table.splitlines()
    self.assertEqual(
        '| encode_32 | 4.0 | 2.0 to 5.0 | 12.3 | 1.31 | 2.00 | 1.00 | 1.50 '
        '| 2.0e-07 |',
        rows[2])
    self.assertEqual(
        '| ray_data | 2.0 | 2.0 to 2.0 | 12.3 |  | 4.00 | 2.00 | 2.50 '
        '| 2.0e-07 |',
        rows[3])
    self.assertEqual(rows[0].count('|'), rows[1].count('|'))
    self.assertEqual(rows[0].count('|'), rows[2].count('|'))

  def test_other_embeddings_fail_by_the_name_of_their_way(self):
    expected = np.zeros((2, 3), 'f4')
    found = expected.copy()
    found[1, 2] = 5e-4
    self.assertAlmostEqual(
        5e-4, peers.largest_difference('infinity', expected, found))
    for wrong in (2e-3, np.nan):
      found[1, 2] = wrong
      with self.assertRaisesRegex(ToolError, 'infinity: an embedding differs'):
        peers.largest_difference('infinity', expected, found)
    with self.assertRaisesRegex(ToolError, 'infinity: the shape'):
      peers.largest_difference('infinity', expected, found[:1])


class VLLMTableTest(unittest.TestCase):
  def test_a_row_has_what_a_way_adds_with_its_spread(self):
    table = iterative.vllm_table({
        'durable': {
            'ttft_p50': 0.4, 'ttft_p95': 0.5, 'total': 3.0
        },
        'against': {
            'durable': {
                'ttft_p50_minus_bare': 0.1,
                'ttft_p95_minus_bare': 0.2,
                'total_over_one_shot': 1.01
            }
        },
        'spread': {
            'durable': {
                'ttft_p50_minus_bare': [0.0, 0.3],
                'ttft_p95_minus_bare': [-0.1, 0.4],
                'total_over_one_shot': [0.9, 1.1]
            }
        },
        'counts': {
            'durable': {
                'missing': 0, 'doubled': 2
            }
        },
        'texts_equal': 0.985,
    })
    rows = table.splitlines()
    self.assertEqual(
        '| durable | 0.40 s | 0.50 s | 0.10 (0.00 to 0.30) | 0.20 (-0.10 to '
        '0.40) | 3.00 s | 1.01 (0.90 to 1.10) | 0 | 2 |',
        rows[2])
    self.assertEqual(rows[0].count('|'), rows[1].count('|'))
    self.assertIn('0.98', rows[-1])


class MakeBenchTest(unittest.TestCase):
  def test_the_replay_gets_all_loads_and_its_runner(self):
    # Quiet, as within make it would name its directory last.
    done = subprocess.run(
        ['make', '--no-print-directory', '-n', 'bench', 'TRACE=trace.csv'],
        cwd=here().root,
        stdout=subprocess.PIPE,
        text=True,
        check=True)
    replay = shlex.split(done.stdout.splitlines()[-1])
    self.assertIn('trace.csv', replay)
    self.assertEqual('0.2,0.6,0.9', replay[replay.index('--loads') + 1])
    self.assertIn('--runner=PrismRunner', replay)


if __name__ == '__main__':
  unittest.main()
