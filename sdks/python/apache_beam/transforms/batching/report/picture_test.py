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

import tempfile
import unittest
from pathlib import Path
from unittest import mock

from apache_beam.transforms.batching.report import picture
from apache_beam.transforms.batching.report.charts import Bar
from apache_beam.transforms.batching.report.charts import BarChart
from apache_beam.transforms.batching.report.charts import Point
from apache_beam.transforms.batching.report.charts import Scatter

try:
  from matplotlib.figure import Figure
except ImportError:
  Figure = None

# A pair of dollars would be a formula, and this one is not valid.
_MONEY = r'costs $5_ and \$6^'
_CHARTS = [
    BarChart(
        'Bars',
        [
            Bar(_MONEY, 4, '4.00', mean=3, start=2),
            Bar('none', 0, '0', is_reference=True),
        ]),
    Scatter(
        'Points',
        'seconds',
        'tokens',
        [
            Point('left', 0.1, 1.1, ''),
            Point('right', 10, 3, ''),
            Point('across', None, 1, ''),
        ]),
]


@unittest.skipIf(Figure is None, 'needs matplotlib')
class PictureTest(unittest.TestCase):
  def _save(self, charts):
    """The figure that was saved, and the file's first bytes."""
    figures = []
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(
        Figure, 'savefig', autospec=True,
        side_effect=lambda figure, *args, save=Figure.savefig, **kwargs:
        (figures.append(figure), save(figure, *args, **kwargs))):
      path = Path(folder) / 'a.png'
      picture.save(path, 'All', charts)
      return figures[0], path.read_bytes()[:4]

  def test_is_a_picture_with_all_labels(self):
    figure, start = self._save(_CHARTS)
    self.assertEqual(b'\x89PNG', start)
    bars, points = figure.axes
    texts = [text.get_text() for text in bars.texts]
    self.assertEqual([picture._plain(_MONEY), '4.00', 'none', '0'], texts)
    self.assertEqual(['left', 'right', 'across'],
                     [text.get_text() for text in points.texts])

  def test_bars_end_where_they_should(self):
    figure, _ = self._save(_CHARTS[:1])
    both, none = figure.axes[0].patches
    self.assertEqual((2, 2), (both.get_x(), both.get_width()))
    # It can still be seen.
    self.assertEqual((0, 4 / 250), (none.get_x(), none.get_width()))


if __name__ == '__main__':
  unittest.main()
