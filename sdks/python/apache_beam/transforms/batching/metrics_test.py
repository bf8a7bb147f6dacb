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

import collections
import math
import unittest
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from apache_beam.metrics.execution import MetricKey
from apache_beam.metrics.execution import MetricResult
from apache_beam.metrics.metricbase import MetricName
from apache_beam.pipeline import AppliedPTransform
from apache_beam.pipeline import ComponentIdMap
from apache_beam.transforms.batching import figures
from apache_beam.transforms.batching.metrics import BatchingMetrics
from apache_beam.transforms.batching.metrics import short_name
from apache_beam.transforms.batching.metrics import values_by_transform


class BatchingMetricsTest(unittest.TestCase):
  def test_fractions_of_a_millisecond_add_up(self):
    counted = {}

    class Counter:
      def __init__(self, name):
        self._name = name

      def inc(self, value=1):
        counted[self._name] = counted.get(self._name, 0) + value

    counters = BatchingMetrics('test')
    counters._predicted, counters._actual = Counter('p'), Counter('a')
    for _ in range(1000):
      counters.prediction(0.00025, 0.0005)
    self.assertAlmostEqual(250, counted['p'], delta=1)
    self.assertAlmostEqual(500, counted['a'], delta=1)

  @given(st.lists(st.integers(1, 10**6), min_size=1), st.floats(0.01, 1))
  def test_quantiles_of_waits(self, waits, share):
    counts = collections.Counter(1 << wait.bit_length() for wait in waits)
    below = figures.wait_quantile({
        f'wait_msec_below_{edge}': count
        for edge, count in counts.items()
    },
                                  share)
    exact = sorted(waits)[math.ceil(share * len(waits)) - 1]
    self.assertLess(exact, below)
    self.assertLessEqual(below, 2 * exact)


class ShortNameTest(unittest.TestCase):
  def test_is_the_label_whatever_the_runner_calls_the_step(self):
    for label, expected in (
        ('Embed', 'Embed'),
        ('Embed: a/b', 'Embed-a-b'),
        ('Outer/Embed', 'Outer-Embed'),
        ('RunInference', 'RunInference'),
        ('A' * 40, '...' + 'A' * 29)):
      for inner in ('BatchElements/ParDo(LengthBatchingDoFn)',
                    'BatchElements/ParDo(_StatefulDoFn)',
                    'BeamML_RunInference',
                    'BeamML_RunInference/ParDo(_Wrapper)',
                    'ParDo(LengthBatchingDoFn)'):
        full = f'{label}/{inner}'
        names = ComponentIdMap()
        step = names.get_or_assign(full, obj_type=AppliedPTransform, label=full)
        for name in (full, step, f'e{step}_processandsplit'):
          self.assertEqual(expected, short_name(name))

  def test_of_batch_elements_itself(self):
    self.assertEqual(
        'BatchElements', short_name('BatchElements/ParDo(LengthBatchingDoFn)'))

  def test_is_the_same_where_a_runner_cuts_long_labels(self):
    full = 'x' * 70 + '/BatchElements/ParDo(LengthBatchingDoFn)'
    step = ComponentIdMap().get_or_assign(
        full, obj_type=AppliedPTransform, label=full)
    self.assertEqual(short_name(full), short_name(step))


class ValuesByTransformTest(unittest.TestCase):
  def _values(self, *counted):
    counters = [
        MetricResult(MetricKey(step, MetricName('n', name)), value, None)
        for step, name, value in counted
    ]
    result = mock.Mock()
    result.metrics().query.return_value = {
        'counters': counters, 'distributions': []
    }
    return values_by_transform(result)

  def test_what_is_of_no_step_is_left_out(self):
    # Prism has metrics of collections among them.
    self.assertEqual({'A': {
        'a': 1
    }},
                     self._values((None, 'a', 7), ('A/ParDo(X)', 'a', 1)))

  def test_steps_of_a_transform_are_one(self):
    self.assertEqual({'A': {
        'a': 1, 'b': 2
    }},
                     self._values(('A/BatchElements/ParDo(X)', 'a', 1),
                                  ('A/BeamML_RunInference', 'b', 2)))

  def test_transforms_of_the_same_short_name_stay_apart(self):
    self.assertEqual({
        'A-b': {
            'a': 1
        }, 'A-b 2': {
            'a': 2
        }, 'A-b 3': {
            'a': 3
        }
    },
                     self._values(('A b/ParDo(X)', 'a', 1),
                                  ('A-b/ParDo(X)', 'a', 2),
                                  ('A/b/ParDo(X)', 'a', 3)))


if __name__ == '__main__':
  unittest.main()
