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

import math
import unittest

import apache_beam as beam
from apache_beam.ml.inference import base
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.transforms import trigger
from apache_beam.transforms import window
from apache_beam.transforms.batching.metrics import metrics_table
from apache_beam.transforms.batching.options import BatchingOptions
from apache_beam.transforms.batching.policy.least_cost import Cost

_FLAG = '--experiments=smart_bucketing'


class _Echo(base.ModelHandler[str, str, None]):
  def load_model(self):
    return None

  def run_inference(self, batch, model, inference_args=None):
    return batch


class _Small(_Echo):
  """Has memory for 100 letters."""
  def run_inference(self, batch, model, inference_args=None):
    if sum(map(len, batch)) > 100:
      raise MemoryError()
    return batch


def _pipeline(*flags):
  return TestPipeline(
      runner='FnApiRunner', options=PipelineOptions([_FLAG, *flags]))


class BatchElementsAcrossBundlesTest(unittest.TestCase):
  def _texts(self, p):
    return (
        p | beam.Create(range(100))
        |
        beam.Map(lambda i: window.TimestampedValue('x' * (1 + 37 * i % 50), i))
        | beam.WindowInto(
            window.FixedWindows(50),
            trigger=trigger.AfterWatermark(),
            accumulation_mode=trigger.AccumulationMode.DISCARDING,
            allowed_lateness=0)
        | beam.Reshuffle())

  def test_windows_are_kept_and_nothing_is_dropped_behind(self):
    with _pipeline() as p:
      counts = (
          self._texts(p)
          | beam.BatchElements(
              max_batch_size=8, length_fn=len, max_batch_duration_secs=60)
          | beam.Map(lambda batch: (None, len(batch)))
          | beam.CombinePerKey(sum))
      assert_that(counts, equal_to([(None, 50)] * 2))

  def test_batches_hold_similar_lengths(self):
    def check(batches):
      sizes = [[len(text) for text in batch] for batch in batches]
      padded = sum(max(s) * len(s) for s in sizes)
      assert padded / sum(map(sum, sizes)) < 1.2, sizes
      assert max(map(len, sizes)) <= 8

    with _pipeline() as p:
      assert_that(
          self._texts(p)
          | beam.BatchElements(
              max_batch_size=8,
              length_fn=len,
              max_batch_duration_secs=60,
              options=BatchingOptions(optimize_for='cost')),
          check)

  def test_one_line_says_that_elements_are_buffered_across_bundles(self):
    for secs, expected in (
        (3, 'an element is buffered for at most 3 s'),
        (0, 'an element is buffered until the end of its window')):
      with self.assertLogs('apache_beam.transforms.batching', 'INFO') as logs:
        pipeline = beam.Pipeline(options=PipelineOptions([_FLAG]))
        _ = pipeline | beam.Create(['a']) | beam.BatchElements(
            length_fn=len, max_batch_duration_secs=secs)
      self.assertIn(
          f'is on, by length_fn, across bundles; {expected}', str(logs.output))

  def _check_sizes(self, expected, size_fn, flags=(_FLAG, ), **kwargs):
    with _pipeline(*flags) as p:
      batches = (
          p
          | beam.Create([None])
          | beam.FlatMap(lambda _: ['x' * n for n in (5, 5, 1, 1, 9)])
          | beam.BatchElements(
              max_batch_size=10,
              element_size_fn=size_fn,
              max_batch_duration_secs=60,
              **kwargs)
          | beam.Map(lambda batch: sorted(map(len, batch))))
      assert_that(batches, equal_to(expected))

  def test_elements_count_without_a_length_fn(self):
    for flags in ((), (_FLAG, )):
      self._check_sizes([[1, 1, 5, 5, 9]], len, flags, min_batch_size=10)

  def test_a_size_that_is_no_integer(self):
    self._check_sizes([[1, 1, 5, 5, 9]], lambda text: 1, (_FLAG, ),
                      min_batch_size=4.5,
                      length_fn=len)

  def test_sizes_count_where_elements_are_grouped_by_length(self):
    for size_fn, expected in (
        (len, [[5, 5], [1, 1], [9]]),
        (lambda text: len(text) * .75, [[9], [1, 1, 5, 5]]),
        (lambda text: math.inf, [[1], [1], [5], [5], [9]]),
        (lambda text: -1, [[1, 1, 5, 5, 9]])):
      self._check_sizes(
          expected,
          size_fn,
          length_fn=len,
          options=BatchingOptions(cost=Cost(99, 1)))

  def test_shards(self):
    with _pipeline() as p:
      sizes = (
          p | beam.Create([[10] * 192])
          | beam.FlatMap(lambda lengths: lengths)
          | beam.BatchElements(
              max_batch_size=200,
              length_fn=lambda length: length,
              max_batch_duration_secs=60,
              options=BatchingOptions(shards=3, cost=Cost(20, 1)))
          | beam.Map(len))
      assert_that(sizes, equal_to([64, 64, 64]))

  def test_run_inference(self):
    handler = _Echo(
        max_batch_size=8, batch_length_fn=len, max_batch_duration_secs=60)
    options = BatchingOptions(max_padded_size=100, optimize_for='cost')
    p = _pipeline()
    results = self._texts(p) | base.RunInference(
        handler, batching_options=options)
    assert_that(
        results | beam.combiners.Count.Globally().without_defaults(),
        equal_to([50, 50]))
    table = metrics_table(p.run())
    self.assertRegex(table, r'\| elements +\| +100 \|')
    self.assertIn('window end', table)

  def test_batches_that_do_not_fit_in_memory(self):
    handler = _Small(
        max_batch_size=32, batch_length_fn=len, max_batch_duration_secs=60)
    p = _pipeline()
    results = (
        p | beam.Create([None])
        | beam.FlatMap(lambda _: ['x' * 10] * 400)
        | base.RunInference(handler))
    assert_that(results | beam.combiners.Count.Globally(), equal_to([400]))
    split, = [
        counter.result for counter in p.run().metrics().query()['counters']
        if counter.key.metric.name == 'batches_split'
    ]
    # Without a limit that follows there are 13 batches of 32, all split.
    self.assertTrue(1 <= split <= 6, split)

  def test_run_inference_with_exception_handling(self):
    handler = _Echo(
        max_batch_size=8,
        batch_length_fn=lambda text: len(text) or None,
        max_batch_duration_secs=60)
    with _pipeline() as p:
      results, other = (
          p | beam.Create(['a', '', 'bb'])
          | base.RunInference(handler).with_exception_handling())
      assert_that(results, equal_to(['a', 'bb']))
      assert_that(
          other.failed_inferences | beam.Map(lambda failed: failed[0]),
          equal_to([['']]),
          label='failed')

  def test_sessions_are_batched_as_without_the_flag(self):
    def sizes(*flags, **kwargs):
      p = TestPipeline(
          runner='FnApiRunner', options=PipelineOptions(list(flags)))
      found = (
          p | beam.Create(['a', 'bb', 'a'])
          | beam.Map(lambda text: window.TimestampedValue(text, 0))
          | beam.WindowInto(window.Sessions(5))
          | beam.BatchElements(
              length_fn=len, max_batch_duration_secs=1, **kwargs)
          | beam.FlatMap(lambda batch: batch))
      assert_that(found, equal_to(['a', 'bb', 'a']))
      p.run()

    sizes()
    with self.assertLogs(level='INFO') as logs:
      sizes(_FLAG)
    self.assertIn('BatchElements: batching by length is off', str(logs.output))
    self.assertIn('windows that merge', str(logs.output))
    with self.assertRaisesRegex(ValueError, 'BatchElements: .*Sessions'):
      sizes(_FLAG, options=BatchingOptions())

  def test_a_window_fn_that_says_that_it_does_not_merge(self):
    class Own(window.WindowFn):
      def assign(self, context):
        return [window.IntervalWindow(0, 10)]

      def get_window_coder(self):
        return window.FixedWindows(10).get_window_coder()

      def merge(self, context):
        pass

      def is_merging(self):
        return False

    with self.assertLogs(level='INFO') as logs:
      p = beam.Pipeline(options=PipelineOptions([_FLAG]))
      _ = (
          p | beam.Create(['a']) | beam.WindowInto(Own())
          | beam.BatchElements(length_fn=len, max_batch_duration_secs=1))
    self.assertIn('batching by length is on', str(logs.output))

  def test_a_pipeline_updated_from_2_77_keeps_its_state(self):
    with _pipeline('--update_compatibility_version=2.77.0') as p:
      _ = p | beam.Create(['a']) | beam.BatchElements(
          length_fn=len, max_batch_duration_secs=1)
    labels = [part.full_label for part in p.transforms_stack[0].parts[1].parts]
    self.assertTrue(any('_StatefulBatchElementsDoFn' in l for l in labels))


if __name__ == '__main__':
  unittest.main()
