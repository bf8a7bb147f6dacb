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

from hypothesis import given
from hypothesis import strategies as st

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.inference_conformance import observations


class ObservationsTest(unittest.TestCase):
  @given(st.lists(st.integers(0, 9)), st.lists(st.integers(0, 9)))
  def test_lost_and_duplicated(self, got, expected):
    counts = observations.of_elements([(got, 0.0)], indices=expected)
    self.assertEqual(
        sorted(got) == sorted(expected),
        not counts['bad_lost'] and not counts['bad_duplicated'])
    self.assertEqual(
        len(got) - len(expected), counts['bad_duplicated'] - counts['bad_lost'])

  def test_batches(self):
    def count(*batches):
      found = observations.of_batches(
          batches,
          indices=range(4),
          max_count=2,
          max_padded_size=10,
          window_secs=2)
      return {name for name, n in found.items() if n and 'bad' in name}

    good = ([(0, 3), (1, 4)], 0), ([(2, 50)], 2), ([(3, 1)], 2)
    self.assertEqual(set(), count(*good))
    self.assertEqual({'bad_lost'}, count(*good[1:]))
    self.assertEqual({'bad_duplicated'}, count(*good, good[0]))
    self.assertEqual({'bad_mixed_windows'},
                     count(([(0, 3)], 0), ([(1, 4), (2, 4)], 0), good[2]))
    self.assertEqual({'bad_limits'}, count(([(0, 3), (1, 6)], 0), *good[1:]))

  def test_chunks(self):
    texts = {'a': 'one two three', 'b': 'four five six'}
    good = [(name, i, i == 1, part, None, float(i))
            for name, text in texts.items()
            for i, part in enumerate((text[:9], text[9:]))]
    bad = ('bad', 0, True, '', 'invalid: it is bad', 0.0)

    def count(chunks, **kwargs):
      found = observations.of_chunks(chunks, texts=texts, **kwargs)
      return {name for name, n in found.items() if n and 'bad' in name}

    self.assertEqual(set(), count(good))
    self.assertEqual(set(), count([*good, bad], failed='invalid'))
    self.assertEqual({'bad_failures'}, count([*good, bad]))
    self.assertEqual({'bad_failures'}, count(good, failed='invalid'))
    self.assertEqual({'bad_texts'}, count(good[1:]))
    self.assertEqual({'bad_lost', 'bad_texts'}, count(good[2:]))
    self.assertEqual({'bad_duplicated', 'bad_texts'}, count([*good, good[0]]))
    self.assertEqual(set(), count(good, first_before_last=True))
    late = [(*chunk[:-1], chunk[-1] + 5 * (chunk[0] == 'b')) for chunk in good]
    self.assertEqual({'bad_order'}, count(late, first_before_last=True))

  def test_arrivals(self):
    texts = {f'{i} {10 + i}': 'one two' for i in range(3)}
    good = [(name, i, i == 1, part, None, float(10 + int(name[0]) + i))
            for name in texts for i, part in enumerate(('one ', 'two'))]

    def count(chunks, most_secs=1.0):
      return {
          name
          for name, n in observations.of_arrivals(
              chunks, count=3, text_of=texts.get, most_secs=most_secs).items()
          if n and 'bad' in name
      }

    self.assertEqual(set(), count(good))
    self.assertEqual({'bad_lost'}, count(good[2:]))
    self.assertEqual({'bad_texts'}, count(good[:-1]))
    late = [(*chunk[:-1], chunk[-1] + 5 * (chunk[0] == '2 12'))
            for chunk in good]
    self.assertEqual({'bad_waits'}, count(late))
    self.assertEqual(set(), count(late, most_secs=5.0))


class ReportTest(unittest.TestCase):
  def test_counts_are_metrics_of_the_job(self):
    def judge(seen):
      return {'bad_lost': 0, 'sum': sum(seen)}

    for numbers, expected in (([1, 2, 3], {
        'bad_lost': 0, 'sum': 6, 'judged': 1
    }), ([], {})):
      p = beam.Pipeline(options=PipelineOptions(['--runner=FnApiRunner']))
      _ = p | 'Numbers' >> beam.Create(numbers) | observations.Report(judge)
      found = p.run().metrics().query()
      self.assertEqual(
          expected,
          {
              metric.key.metric.name: metric.result.max
              for metric in found['distributions']
              if metric.key.metric.namespace == observations.NAMESPACE
          })
      self.assertEqual([1],
                       [
                           metric.result for metric in found['counters']
                           if metric.key.metric.name == observations.STARTED
                       ])


if __name__ == '__main__':
  unittest.main()
