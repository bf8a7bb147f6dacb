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

import unittest

from apache_beam.transforms.batching.report.of_metrics import charts_of


def _distribution(name, low, high, total, count):
  return {
      f'{name}.min': low,
      f'{name}.max': high,
      f'{name}.sum': total,
      f'{name}.count': count
  }


_SIZES = {
    'real_size': 100,
    'padded_size': 125,
    **_distribution('batch_size', 2, 6, 20, 5),
}
_BATCHED = {
    **_SIZES,
    'arrival_order_padded_size': 300,
    'batches_full': 1,
    'batches_idle': 4,
    'predicted_msec': 900,
    'actual_msec': 1200,
    'wait_msec_below_2': 3,
    'wait_msec_below_8': 2,
    **_distribution('msec_per_batch', 10, 2000, 2500, 5),
}


def _bars(values, title, name='T'):
  """Of each bar what it shows."""
  chart, = (c for c in charts_of({name: values}) if c.title == title)
  return [(bar.label, bar.value, bar.start, bar.end, bar.mean)
          for bar in chart.bars]


class ChartsOfTest(unittest.TestCase):
  def test_padding(self):
    self.assertEqual([('T', '1.25', 0, 1.25, None),
                      ('T, arrival order', '3.00', 0, 3, None)],
                     _bars(_BATCHED, 'Padding ratio'))

  def test_sizes_and_lengths(self):
    self.assertEqual([('T', '2 to 6, mean 4', 2, 6, 4)],
                     _bars(_BATCHED, 'Batch size'))
    self.assertEqual([('T', '5.0, padded to 6.2', 0, 6.25, 5)],
                     _bars(_BATCHED, 'Mean length of an element'))

  def test_reasons_that_occurred(self):
    self.assertEqual([(
        'T: the buffer held as many elements as it may',
        '1 (20%)',
        0,
        0.2,
        None), ('T: the model was idle', '4 (80%)', 0, 0.8, None)],
                     _bars(_BATCHED, 'Why batches were flushed'))

  def test_times(self):
    self.assertEqual([('T', '10 ms to 2.0 s, mean 500 ms', 10, 2000, 500)],
                     _bars(_BATCHED, 'Time of a batch'))
    self.assertEqual([('T', '1.2 s', 0, 1200, None),
                      ('T, predicted', '900 ms', 0, 900, None)],
                     _bars(_BATCHED, 'Predicted and actual time'))

  def test_waits_have_no_holes(self):
    self.assertEqual([('1 ms to 2 ms', '3', 0, 3, None),
                      ('2 ms to 4 ms', '0', 0, 0, None),
                      ('4 ms to 8 ms', '2', 0, 2, None)],
                     _bars(_BATCHED, 'Batches by time in the buffer: T'))

  def test_waits_within_a_bundle_are_explained(self):
    def note(values):
      chart, = (c for c in charts_of({'T': values}) if 'buffer: T' in c.title)
      return chart.note

    self.assertNotIn('No time is lost', note(_BATCHED))
    self.assertIn(
        'No time is lost', note({
            **_BATCHED, 'batches_bundle_end': 1
        }))

  def test_first_token(self):
    values = {'chunks': 9, **_distribution('ttft_msec', 40, 400, 600, 4)}
    self.assertEqual(
        [('T, from submission', '40 ms to 400 ms, mean 150 ms', 40, 400, 150)],
        _bars(values, 'Time to the first token'))
    self.assertEqual(1, len(charts_of({'T': values})))

  def test_what_was_not_counted_is_left_out(self):
    self.assertEqual(
        ['Padding ratio', 'Batch size', 'Mean length of an element'],
        [chart.title for chart in charts_of({'T': _SIZES})])
    self.assertEqual([], charts_of({'T': {'num_inferences': 7}}))
    self.assertEqual([], charts_of({}))

  def test_transforms_are_side_by_side(self):
    for chart in charts_of({'One': _BATCHED, 'Other': _BATCHED}):
      if 'buffer' not in chart.title:
        names = {bar.label.split(',')[0].split(':')[0] for bar in chart.bars}
        self.assertEqual({'One', 'Other'}, names)


if __name__ == '__main__':
  unittest.main()
