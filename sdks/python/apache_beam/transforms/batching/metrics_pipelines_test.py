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

import re
import unittest

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.transforms import window
from apache_beam.transforms.batching.metrics import metrics_table
from apache_beam.transforms.batching.options import BatchingOptions
from apache_beam.transforms.batching.policy.least_cost import Cost
from apache_beam.transforms.util import BatchElements


class _Seconds:
  """A clock that is a second later each time that it is asked."""
  now = 0

  def __call__(self):
    self.now += 1
    return self.now


_OPTIONS = PipelineOptions(['--experiments=smart_bucketing'])


def _run(texts, *args, into=window.GlobalWindows(), **kwargs):
  """Batches texts of one bundle by their length."""
  p = TestPipeline(runner='FnApiRunner', options=_OPTIONS)
  batches = (
      p
      | beam.Create([None])
      | beam.FlatMap(lambda _: texts)
      | beam.WindowInto(into))
  _ = batches | 'Batches' >> BatchElements(*args, length_fn=len, **kwargs)
  return p.run()


def _values(result):
  found = result.metrics().query()
  return {
      metric.key.metric.name: metric.committed
      for metric in found['counters'] + found['distributions']
      if metric.key.metric.namespace == 'BatchElements'
  }


class BatchingMetricsTest(unittest.TestCase):
  def test_sizes_of_a_small_pipeline(self):
    texts = ['x' * length for length in (9, 1, 8, 2, 50)]
    options = BatchingOptions(max_padded_size=40)
    values = _values(_run(texts, 2, 2, options=options))
    self.assertEqual(70, values['real_size'])
    # [8, 9], [1, 2] and [50].
    self.assertEqual(2 * 9 + 2 * 2 + 50, values['padded_size'])
    self.assertEqual(2, values['batches_bundle_end'])
    self.assertEqual(1, values['batches_limit'])
    self.assertEqual(5, values['batch_size'].sum)
    self.assertEqual(3, values['batch_size'].count)
    self.assertEqual(3, values['wait_msec'].count)
    self.assertEqual(3, values['msec_per_batch'].count)

  def test_arrival_order_is_that_of_batches_of_the_same_sizes(self):
    texts = ['x' * length for length in (1, 100) * 8]
    values = _values(_run(texts, 4, 4))
    self.assertEqual(values['real_size'], values['padded_size'])
    self.assertEqual(1600, values['arrival_order_padded_size'])

  def test_windows_are_apart_in_arrival_order_too(self):
    texts = [
        window.TimestampedValue('x' * length, second)
        for length, second in ((1, 0), (100, 10)) * 8
    ]
    values = _values(_run(texts, 4, 4, into=window.FixedWindows(10)))
    self.assertEqual(values['real_size'], values['arrival_order_padded_size'])

  def test_full_buffer_and_full_memory(self):
    texts = ['x' * 1000] * 50
    by_count = BatchingOptions(max_buffered_elements=20)
    by_bytes = BatchingOptions(max_buffered_bytes=20_000)
    for options, reason in ((by_count, 'full'), (by_bytes, 'memory')):
      values = _values(_run(texts, 5, 5, options=options))
      self.assertGreater(values[f'batches_{reason}'], 5)
      self.assertGreater(values['batches_bundle_end'], 0)
      self.assertLessEqual(values['buffered_elements'].max, 20)

  def test_gap_is_what_a_minimum_costs(self):
    texts = ['x', 'x' * 100]
    cost = BatchingOptions(cost=Cost(10, 1))
    values = _values(_run(texts, 1, 2, options=cost))
    self.assertEqual(0, values['least_cost_gap_permille'].max)
    values = _values(_run(texts, 2, 2, options=cost))
    # 210 for both in one batch, 11 + 110 for each alone.
    self.assertEqual(
        round(1000 * (210 / 121 - 1)), values['least_cost_gap_permille'].max)

  def test_waits_are_counted_by_powers_of_two(self):
    values = _values(_run(['x'] * 40, 1, 4, clock=_Seconds()))
    waits = {
        int(name.rpartition('_')[2]): counter
        for name, counter in values.items()
        if name.startswith('wait_msec_below_')
    }
    longest, shortest = values['wait_msec'].max, values['wait_msec'].min
    self.assertEqual(values['wait_msec'].count, sum(waits.values()))
    self.assertLessEqual(max(waits) / 2, longest)
    self.assertLess(longest, max(waits))
    self.assertLess(shortest, min(waits))

  def test_without_metrics(self):
    self.assertEqual({}, _values(_run(['x'] * 5, record_metrics=False)))


class MetricsTableTest(unittest.TestCase):
  def test_what_was_saved(self):
    texts = ['x' * length for length in (1, 100) * 8]
    table = metrics_table(_run(texts, 4, 4))
    lines, note = table.splitlines()[:-2], table.splitlines()[-1]
    cells = [re.split(r' *\| *', line)[1:-1] for line in lines]
    self.assertEqual(['', 'Batches'], cells[0])
    self.assertEqual(1, len(set(map(len, lines))))
    self.assertIn('Within a bundle', note)
    rows = dict(cells[2:])
    self.assertEqual('16', rows['elements'])
    self.assertEqual('4', rows['batches'])
    self.assertEqual('1.000', rows['padding ratio'])
    self.assertEqual('1.980', rows['padding ratio in arrival order'])
    self.assertEqual('49.5%', rows['padded size saved'])
    self.assertEqual('bundle end 4', rows['flushed because of'])
    self.assertRegex(
        rows['oldest buffered for, p50, p95'], r'^below \d+ ms, \d+ ms$')

  def test_transforms_are_columns_by_their_labels(self):
    p = TestPipeline(runner='FnApiRunner', options=_OPTIONS)
    texts = p | beam.Create(['x', 'xx'])
    _ = texts | 'Zwei' >> BatchElements(1, 2, length_fn=len)
    _ = texts | 'One' >> BatchElements(1, 2, length_fn=len)
    head = metrics_table(p.run()).splitlines()[0]
    self.assertEqual(['', 'One', 'Zwei'], re.split(r' *\| *', head)[1:-1])

  def test_empty_texts_have_no_size(self):
    self.assertIn('No step', metrics_table(_run([''] * 4)))

  def test_pipeline_that_did_not_batch(self):
    p = TestPipeline(runner='FnApiRunner')
    _ = p | beam.Create([1])
    self.assertEqual('No step batched by length.', metrics_table(p.run()))


if __name__ == '__main__':
  unittest.main()
