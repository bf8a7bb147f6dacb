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

"""What Python pipelines need on Flink, so as to lose nothing.

Measured with the job server of Flink 1.19.3: with checkpoints and without the
option below *any* Python pipeline loses elements, without a fault and with exit
status 0.
"""

import functools
import logging

from apache_beam.options.pipeline_options import DebugOptions
from apache_beam.options.pipeline_options import PipelineOptions

OPTION = 'finish_bundle_before_checkpointing'
# Bundles of a second are the default, and a job with checkpoints ends only with
# the last one.
OPTIONS = (
    f'--{OPTION} --max_bundle_time_mills=50 --checkpointing_interval=10000 '
    '--shutdown_sources_after_idle_ms=60000')

_LOGGER = logging.getLogger(__name__)


def finishes_bundles(owner: str, options: PipelineOptions) -> bool:
  """Whether a bundle is finished before each checkpoint.

  Args:
    owner: the transform's label, for the message.
    options: of the pipeline, with the flags that Beam does not know.

  Raises:
    ValueError: if the flag has a value: Beam's job server calls it an error.
  """
  known = options.get_all_options(retain_unknown_options=True)
  value = known.get(OPTION)
  if isinstance(value, str) and value.lower() != 'false':
    raise ValueError(
        f'{owner}: --{OPTION}={value} is not an option of Flink. It takes no '
        f'value: --{OPTION}')
  return value is True


def require_finished_bundles(
    owner: str, options: PipelineOptions, loses: str, unsafe: str) -> None:
  """Refuses a pipeline on Flink that would lose elements at a checkpoint.

  Args:
    owner: the transform's label.
    options: of the pipeline.
    loses: what is lost, for the message.
    unsafe: the experiment that starts the job nevertheless.

  Raises:
    ValueError: it says what to set.
  """
  if (finishes_bundles(owner, options) or
      options.view_as(DebugOptions).lookup_experiment(unsafe)):
    return
  raise ValueError(
      f'{owner}: {loses} on Flink with checkpoints, unless a bundle is finished '
      f'before each. Start the pipeline with {OPTIONS}, or, if it takes no '
      f'checkpoints, with --experiments={unsafe}.')


@functools.cache
def warn_once(owner: str, runner: str, needs: str) -> None:
  """Warns of a runner that was not tried, once for each transform."""
  _LOGGER.warning(
      '%s was tried on Prism, Flink and the FnApiRunner, not with the %s. %s If '
      'the job server is that of Flink, start the pipeline with %s: elements '
      'are lost without.',
      owner,
      runner,
      needs,
      OPTIONS)
