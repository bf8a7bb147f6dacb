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
import time
import unittest

from apache_beam.testing.benchmarks import iterative_inference_benchmark as benchmark
from apache_beam.testing.benchmarks import iterative_inference_figures as figures
from apache_beam.testing.benchmarks import iterative_inference_recording as recording
from apache_beam.testing.benchmarks.iterative_inference_recording import Part
from apache_beam.testing.inference.clock_session import ClockModelHandler

_WAYS = ('bare', 'one_shot', 'in_bundle', 'in_bundle_fused', 'durable')
_TIMES = {'ttft_p50', 'ttft_p95', 'e2e_p50', 'total'}
_RUNNER = '--runner=FnApiRunner'


def _main(module, *args):
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    code = module.main([*args, _RUNNER])
  return code, out.getvalue(), err.getvalue()


def _outcome(parts):
  return figures.Outcome({
      recording.id_of(name): rows
      for name, rows in parts.items()
  },
                         10.0,
                         0,
                         0)


def _part(index, text='', is_last=False, error=None, seen=10.0):
  return Part(index, seen, is_last * 3, is_last, text, error)


class _SlowToLoad(ClockModelHandler):
  def open_session(self):
    time.sleep(3)
    return super().open_session()


class IterativeInferenceBenchmarkTest(unittest.TestCase):
  def test_the_clock(self):
    code, out, _ = _main(
        benchmark, '--handler=clock', '--prompts=5', '--tokens=40')
    self.assertEqual(code, 0)
    found = json.loads(out)
    for way in _WAYS:
      self.assertEqual(set(found[way]), _TIMES)
      self.assertEqual(found['counts'][way]['tokens'], 5 * 40)
      self.assertEqual(found['counts'][way]['errors'], 0)
      # No token is seen before the clock makes it.
      self.assertGreaterEqual(found[way]['ttft_p50'], 1 / 20)
      self.assertGreaterEqual(found[way]['total'], 40 / 20)
    self.assertEqual(found['counts']['one_shot']['chunks'], 5)
    self.assertEqual(found['tokens'], 5 * 40)
    self.assertEqual(found['chunks'], found['counts']['durable']['chunks'])
    self.assertLessEqual(found['chunks'], 5 * (40 / 8 + 2))
    self.assertEqual((found['missing'], found['doubled']), (0, 0))
    self.assertEqual(found['texts_equal'], 1.0)
    self.assertIsNone(found['first_difference'])
    # A fused consumer need not wait for the 39 tokens after the first.
    self.assertLess(
        found['in_bundle_fused']['ttft_p50'], found['one_shot']['ttft_p50'] / 2)

  def test_some_ways(self):
    _, out, _ = _main(
        benchmark,
        '--handler=clock',
        '--prompts=2',
        '--tokens=3',
        '--rounds=2',
        '--ways',
        'in_bundle')
    found = json.loads(out)
    self.assertEqual(set(found) & set(_WAYS), {'in_bundle'})
    self.assertEqual(found['tokens'], 6)
    self.assertNotIn('texts_equal', found)

  def test_loading_does_not_count(self):
    found = benchmark.measure(
        benchmark.Engine(_SlowToLoad(tokens=2, rate=100.0), {}, None), ['a'],
        flags=[_RUNNER])
    for way in _WAYS:
      self.assertLess(found[way]['total'], 3)

  def test_counts_what_is_missing_or_doubled(self):
    prompts = ['whole', 'gap', 'no end', 'nothing', 'twice', 'failed']
    counts = figures.counts(
        _outcome({
            'whole': [_part(1, is_last=True), _part(0)],
            'gap': [_part(0), _part(3, is_last=True)],
            'no end': [_part(0), _part(1)],
            'twice': [_part(0, is_last=True), _part(0, is_last=True)],
            'failed': [_part(0, is_last=True, error='engine: it died')],
        }),
        prompts)
    # 1 and 2; the last; the first and the last.
    self.assertEqual(counts['missing'], 2 + 1 + 2)
    self.assertEqual(counts['doubled'], 1)
    self.assertEqual(counts['chunks'], 9)
    self.assertEqual((counts['errors'], counts['first_error']),
                     (1, 'engine: it died'))

  def test_the_first_difference(self):
    one_shot = _outcome({
        'a': [_part(0, 'same', True)], 'b': [_part(0, 'one two', True)]
    })
    iterative = _outcome({
        'a': [_part(0, 'sa'), _part(1, 'me', True)],
        'b': [_part(1, 'ten', True), _part(0, 'one ')],
    })
    found = figures.compare_texts(
        one_shot, {'in_bundle': iterative}, ['a', 'b'])
    self.assertEqual(found['texts_equal'], 0.5)
    self.assertEqual(
        found['first_difference'],
        {
            'way': 'in_bundle',
            'prompt': 'b',
            'at': 5,
            'one_shot': 'wo',
            'iterative': 'en'
        })

  def test_times_count_from_the_first_submission(self):
    parts = {
        str(i): [
            _part(0, seen=11.0 + i), _part(1, is_last=True, seen=20.0 + i)
        ]
        for i in range(3)
    }
    self.assertEqual(
        figures.times(_outcome(parts)), {
            'ttft_p50': 2.0, 'ttft_p95': 2.9, 'e2e_p50': 11.0, 'total': 12.0
        })

  def test_rounds_give_medians(self):
    def one(total, missing, difference):
      return {
          'durable': {
              'total': total
          },
          'against': {
              'durable': {
                  'total_over_bare': total / 10
              }
          },
          'missing': missing,
          'doubled': 0,
          'texts_equal': 0.5 if difference else 1.0,
          'first_difference': difference,
      }

    found = figures.combine(
        [one(3, 0, None), one(9, 1, {'at': 4}), one(5, 0, None)], ['durable'])
    self.assertEqual(found['durable'], {'total': 5})
    self.assertEqual(found['against']['durable'], {'total_over_bare': 0.5})
    self.assertEqual(
        found['spread']['durable'], {'total_over_bare': [0.3, 0.9]})
    self.assertEqual((found['missing'], found['doubled']), (1, 0))
    self.assertAlmostEqual(found['texts_equal'], 2.5 / 3)
    self.assertEqual(found['first_difference'], {'at': 4})

  def test_prompts_differ(self):
    prompts = benchmark.make_prompts(1000)
    self.assertEqual(len(set(prompts)), 1000)
    self.assertEqual(prompts[:7], benchmark.make_prompts(7))
    self.assertEqual(len(set(map(recording.id_of, prompts))), 1000)

  def test_wrong_arguments(self):
    for args, message in (
        (['--handler=hf'], 'needs --model'),
        (['--handler=openai', '--model=m'], 'needs --url'),
        (['--handler=clock', '--rate=0'], 'rate=0.0: must be positive'),
        (['--handler=clock', '--prompts=-1'], 'prompts=-1: must be positive')):
      code, _, err = _main(benchmark, *args)
      self.assertEqual(code, 2)
      self.assertIn(message, err)


if __name__ == '__main__':
  unittest.main()
