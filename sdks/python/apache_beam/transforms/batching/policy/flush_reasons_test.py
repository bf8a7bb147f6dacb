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

"""Why batches leave, as the metrics of a pipeline tell it."""

import itertools
import logging
import time
import unittest

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.transforms.batching.metrics import REASONS
from apache_beam.transforms.batching.metrics import metrics_table
from apache_beam.transforms.batching.options import BatchingOptions

_seconds = itertools.count()


def _clock():
  """A second later each time that it is asked."""
  return next(_seconds)


def _lengths(count):
  return [100 + 37 * i % 100 for i in range(count)]


class FlushReasonsTest(unittest.TestCase):
  def _left(self, count=50, **kwargs):
    """How many batches left for each reason, and the table."""
    p = TestPipeline(
        runner='FnApiRunner',
        options=PipelineOptions(['--experiments=smart_bucketing']))
    _ = (
        p | beam.Create([_lengths(count)])
        | beam.FlatMap(lambda lengths: lengths)
        | beam.BatchElements(length_fn=lambda length: length, **kwargs))
    result = p.run()
    values = {
        metric.key.metric.name: metric.committed
        for kind in ('counters', 'distributions')
        for metric in result.metrics().query()[kind]
        if metric.key.metric.namespace == 'BatchElements'
    }
    left = {reason: values.get(f'batches_{reason}', 0) for reason in REASONS}
    # Each batch counts once, each element is in one.
    self.assertEqual(values['batch_size'].count, sum(left.values()))
    self.assertEqual(count, values['batch_size'].sum)
    return left, metrics_table(result)

  def _check(self, reason, **kwargs):
    left, table = self._left(**kwargs)
    self.assertGreater(left[reason], 0, left)
    count = left[reason]
    self.assertIn(f"{reason.replace('_', ' ')} {count:,}", table)

  def test_within_a_bundle(self):
    self._check('bundle_end')
    self._check('full', options=BatchingOptions(max_buffered_elements=20))
    self._check('memory', options=BatchingOptions(max_buffered_bytes=500))
    self._check('limit', options=BatchingOptions(max_padded_size=150))
    self._check(
        'model_time',
        count=200,
        clock=_clock,
        options=BatchingOptions(max_buffered_secs=1))

  def test_across_bundles(self):
    self._check('idle', max_batch_duration_secs=3600)
    for reason, secs, options in (
        ('window_end', 3600, {}),
        ('deadline', 20, {}),
        ('full', 3600, {'max_buffered_elements': 20}),
        ('memory', 3600, {'max_buffered_bytes': 500}),
        ('limit', 3600, {'max_padded_size': 150})):
      self._check(
          reason,
          max_batch_duration_secs=secs,
          clock=_clock if secs == 20 else time.time,
          options=BatchingOptions(optimize_for='cost', **options))

  def test_no_deadline(self):
    left, _ = self._left(max_batch_duration_secs=0)
    self.assertEqual(
        sum(left.values()), left['window_end'] + left['full'], left)


if __name__ == '__main__':
  logging.getLogger().setLevel(logging.INFO)
  unittest.main()
