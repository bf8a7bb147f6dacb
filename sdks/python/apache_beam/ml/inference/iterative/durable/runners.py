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

"""Which runners commit the chunks of a splittable DoFn one by one."""

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.direct.direct_runner import SwitchingDirectRunner
from apache_beam.runners.portability.flink_runner import FlinkRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.prism_runner import PrismRunner
from apache_beam.transforms.batching import flink

# The first chooses one of the others.
_TRIED = (SwitchingDirectRunner, FnApiRunner, PrismRunner)

# A job starts on Flink without finishing bundles nevertheless.
UNSAFE_FLINK = 'allow_unsafe_durable_inference'


def check_runner(label: str, runner: object, options: PipelineOptions) -> None:
  """Refuses what loses chunks, and warns of what was not tried.

  Args:
    label: of the transform.
    runner: of the pipeline.
    options: of the pipeline, with the flags that Beam does not know.

  Raises:
    ValueError: if chunks would be lost.
  """
  if isinstance(runner, BundleBasedDirectRunner):
    raise ValueError(
        f"{label}: IterativeOptions(mode='durable') needs a runner with "
        'splittable DoFns that come back for the rest, and the '
        'BundleBasedDirectRunner has none. Use --runner=PrismRunner, or '
        '--runner=FnApiRunner for a small bounded input.')
  if isinstance(runner, FlinkRunner):
    flink.require_finished_bundles(
        label,
        options,
        "IterativeOptions(mode='durable') loses chunks",
        UNSAFE_FLINK)
  elif not isinstance(runner, _TRIED) and not flink.finishes_bundles(label,
                                                                     options):
    flink.warn_once(
        f"{label}: IterativeOptions(mode='durable')",
        type(runner).__name__,
        'It needs splittable DoFns that checkpoint themselves.')
