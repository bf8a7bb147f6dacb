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

"""The tables of the benchmarks, from figures made up by hand."""

import unittest

from tools.bench import model
from tools.bench import overhead


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


class OverheadTableTest(unittest.TestCase):
  def test_what_only_the_series_has_is_held_against_the_global_window(self):
    table = overhead.table([
        overhead.Figure('by_length', 'series', [4.0, 6.0]),
        overhead.Figure('global_window', 'released', [0.5, 0.5]),
    ])
    self.assertIn('| by_length | series | 5.00 | 4.00 to 6.00 | 10.00 |', table)


if __name__ == '__main__':
  unittest.main()
