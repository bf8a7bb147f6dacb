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

import importlib.util
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference
from apache_beam.ml.inference.iterative import IterativeOptions
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineResult
from apache_beam.runners.runner import PipelineState
from apache_beam.testing.inference.clock_session import ClockModelHandler
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.transforms.batching import metrics_report
from apache_beam.transforms.batching.report import write
from apache_beam.transforms.util import BatchElements

_FLAGS = PipelineOptions(
    ['--experiments=smart_bucketing', '--experiments=iterative_inference'])
_HAS_MATPLOTLIB = importlib.util.find_spec('matplotlib') is not None


def _result():
  p = TestPipeline(runner='FnApiRunner', options=_FLAGS)
  texts = p | beam.Create([
      None
  ]) | beam.FlatMap(lambda _: ['x' * length for length in (1, 100) * 8])
  _ = texts | 'A <b>bold</b> label' >> BatchElements(4, 4, length_fn=len)
  _ = (
      p | 'Prompts' >> beam.Create(['a', 'b'])
      | 'Generate' >> RunInference(
          ClockModelHandler(5, 200), iterative=IterativeOptions()))
  return p.run()


class MetricsReportTest(unittest.TestCase):
  @classmethod
  def setUpClass(cls):
    cls.result = _result()

  def setUp(self):
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = Path(folder.name)

  def _refused(self, error, message, result, path):
    with self.assertRaisesRegex(error, message):
      metrics_report(result, path)
    self.assertEqual([], [*self.folder.iterdir()])

  def test_page_of_both_phases(self):
    path = self.folder / 'report.html'
    metrics_report(self.result, path)
    html = path.read_text(encoding='utf-8')
    self.assertIn('A-b-bold-b-label: 1.00', html)
    self.assertIn('A-b-bold-b-label, arrival order: 1.98', html)
    self.assertIn('the bundle ended: 4 (100%)', html)
    self.assertIn('<h2>Time to the first token</h2>', html)
    self.assertIn('Generate, from submission: ', html)
    self.assertIn('<dt>tokens</dt><dd>10</dd>', html)
    self.assertEqual(_HAS_MATPLOTLIB, (self.folder / 'report.png').exists())

  @unittest.skipUnless(_HAS_MATPLOTLIB, 'needs matplotlib')
  def test_picture_alone(self):
    path = self.folder / 'report.png'
    metrics_report(self.result, str(path))
    self.assertEqual([path], [*self.folder.iterdir()])
    self.assertEqual(b'\x89PNG', path.read_bytes()[:4])

  def test_without_matplotlib(self):
    with mock.patch.object(write, '_has_matplotlib', lambda: False):
      self._refused(
          ImportError,
          'path=.*needs matplotlib. Install it',
          self.result,
          self.folder / 'a.png')
      metrics_report(self.result, self.folder / 'a.html')
    self.assertEqual(['a.html'], [p.name for p in self.folder.iterdir()])

  def test_paths(self):
    self._refused(
        ValueError,
        r'path=.*a.pdf: must end in .html or .png',
        self.result,
        self.folder / 'a.pdf')
    self._refused(
        ValueError,
        r'path=.*: the folder .*none is missing. Make it',
        self.result,
        self.folder / 'none' / 'a.html')

  def test_results_without_metrics(self):
    path = self.folder / 'a.html'
    self._refused(ValueError, 'result=None: has no metrics. Give', None, path)
    self._refused(
        ValueError,
        'result=.*has no metrics',
        PipelineResult(PipelineState.DONE),
        path)
    p = TestPipeline(runner='FnApiRunner')
    _ = p | beam.Create([1])
    self._refused(
        ValueError,
        'result: no transform batched .*--experiments=smart_bucketing',
        p.run(),
        path)


if __name__ == '__main__':
  unittest.main()
