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

"""Writes a report of the metrics of a finished pipeline.

    result = pipeline.run()
    result.wait_until_finish()
    metrics_report(result, 'report.html')
"""

import importlib.util
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path

from apache_beam.runners.runner import PipelineResult
from apache_beam.transforms.batching.figures import batching_figures
from apache_beam.transforms.batching.figures import duration
from apache_beam.transforms.batching.figures import mean
from apache_beam.transforms.batching.metrics import values_by_transform
from apache_beam.transforms.batching.report import page
from apache_beam.transforms.batching.report import picture
from apache_beam.transforms.batching.report.charts import BarChart
from apache_beam.transforms.batching.report.charts import Scatter
from apache_beam.transforms.batching.report.of_metrics import Values
from apache_beam.transforms.batching.report.of_metrics import charts_of

SUFFIXES = ('.html', '.png')
_COUNTERS = ('tokens', 'chunks', 'cancelled', 'resumed', 'retries', 'errors')


def metrics_report(result: PipelineResult, path: str | Path) -> None:
  """Writes what batching by length and iterative inference did, as charts.

  Args:
    result: of a pipeline that ran; its runner must be able to query metrics.
    path: of a local file. What ends in .html is one page without network,
      with a picture of the same name (.png) beside it where matplotlib is
      installed; what ends in .png is that picture alone.

  Raises:
    ValueError: if the path has another ending or its folder is missing, or if
      nothing was counted.
    ImportError: if the path ends in .png, without matplotlib.
  """
  path = check_path(path)
  try:
    transforms = values_by_transform(result)
  except (AttributeError, NotImplementedError) as e:
    raise ValueError(
        f'result={result!r}: has no metrics. Give what Pipeline.run() '
        'returned, of a runner whose metrics can be queried.') from e
  charts = charts_of(transforms)
  if not charts:
    raise ValueError(
        'result: no transform batched by length or emitted partial results. '
        'Run the pipeline with --experiments=smart_bucketing or '
        '--experiments=iterative_inference, and wait until it has finished.')
  write(
      path,
      'Batching and inference',
      ', '.join(transforms) if len(transforms) < 9 else '',
      charts,
      figures_of(transforms))


def check_path(path: str | Path, parameter: str = 'path') -> Path:
  """The path, if a report can be written there; see metrics_report.

  Args:
    path: of the file.
    parameter: what errors call it.
  """
  path = Path(path)
  if path.suffix not in SUFFIXES:
    raise ValueError(
        f'{parameter}={path}: must end in {" or ".join(SUFFIXES)}. Rename it.')
  if not path.parent.is_dir():
    raise ValueError(
        f'{parameter}={path}: the folder {path.parent} is missing. Make it '
        'first.')
  if path.suffix == '.png' and not _has_matplotlib():
    raise ImportError(
        f'{parameter}={path}: a picture needs matplotlib. Install it (pip '
        'install matplotlib), or end the path in .html.')
  return path


def figures_of(transforms: Mapping[str, Values]) -> dict[str, dict[str, str]]:
  """What each transform counted, by the name of the figure.

  Args:
    transforms: by name; values as ``metrics.values_by_transform`` has them.
  """
  found = {}
  for name, values in transforms.items():
    figures = batching_figures(values) if values.get('padded_size') else {}
    if 'chunks' in values:
      figures |= {
          counter: f'{values[counter]:,}'
          for counter in _COUNTERS if counter in values
      }
      if values.get('ttft_msec.count'):
        figures['first token, mean'] = duration(mean(values, 'ttft_msec'))
        figures['first token, latest'] = duration(values['ttft_msec.max'])
    if figures:
      found[name] = figures
  return found


def write(
    path: Path,
    title: str,
    summary: str,
    charts: Sequence[BarChart | Scatter],
    figures: Mapping[str, Mapping[str, str]]) -> None:
  """Writes a page with a picture beside it, or a picture alone.

  Args:
    path: as ``check_path`` returned it.
    title: of the page.
    summary: a sentence or two below it.
    charts: in their order.
    figures: of each transform; on the page alone.
  """
  if path.suffix == '.html':
    path.write_text(
        page.page(title, summary, charts, figures), encoding='utf-8')
  if _has_matplotlib():
    picture.save(path.with_suffix('.png'), title, charts)


def _has_matplotlib() -> bool:
  return importlib.util.find_spec('matplotlib') is not None
