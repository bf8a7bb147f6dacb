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

"""How a pipeline opts in to batching by length, and with what."""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

from apache_beam.internal import pickler
from apache_beam.options.pipeline_options import DebugOptions
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.pipeline_options import StandardOptions
from apache_beam.transforms.batching.options import BatchingOptions
from apache_beam.transforms.core import Windowing
from apache_beam.transforms.window import NonMergingWindowFn
from apache_beam.version import __version__ as beam_version

__all__ = [
    'EXPERIMENT',
    'check_options',
    'check_picklable',
    'check_runner',
    'check_windows',
    'default_options',
    'is_enabled',
    'options_with_metrics',
]

if TYPE_CHECKING:
  from apache_beam.pipeline import Pipeline

EXPERIMENT = 'smart_bucketing'


def is_enabled(
    pipeline_options: PipelineOptions,
    batching_options: BatchingOptions | None,
    transform: str) -> bool:
  """Whether the pipeline asked for length-aware batching.

  Raises:
    ValueError: if the transform was given options that would have no effect.
  """
  debug_options = pipeline_options.view_as(DebugOptions)
  enabled = debug_options.lookup_experiment(EXPERIMENT) is True
  if batching_options is not None and not enabled:
    raise ValueError(
        f'{transform}: BatchingOptions need --experiments={EXPERIMENT}. Start '
        'the pipeline with it, or leave the options out.')
  return enabled


def check_options(
    options: BatchingOptions | None,
    length_fn: Callable[[Any], int] | None,
    min_batch_size: int,
    max_batch_duration_secs: float | None,
    bucket_boundaries: Sequence[int] | None) -> None:
  """Refuses options that could not have their effect in BatchElements.

  Raises:
    ValueError: if another parameter is missing or contradicts them.
  """
  if options is None:
    return
  if length_fn is None:
    raise ValueError(
        'BatchElements: options requires length_fn to be set '
        '(batch_length_fn of a ModelHandler).')
  for name in ('hurry', 'shards'):
    if getattr(options, name) and max_batch_duration_secs is None:
      raise ValueError(
          f'BatchElements: BatchingOptions({name}={getattr(options, name)!r}) '
          'needs max_batch_duration_secs, without which no element waits '
          'beyond its bundle.')
  if options.hurry and bucket_boundaries:
    raise ValueError(
        f'BatchElements: BatchingOptions(hurry={options.hurry!r}) has no effect '
        'with bucket_boundaries (batch_bucket_boundaries of a ModelHandler), '
        'whose batches leave when they are full or due. Leave one of them out.')
  if min_batch_size > options.max_buffered_elements:
    raise ValueError(
        f'BatchElements: min_batch_size={min_batch_size!r} is more than '
        'BatchingOptions(max_buffered_elements='
        f'{options.max_buffered_elements!r}) holds. Raise the latter.')
  largest = options.max_padded_size
  if largest and bucket_boundaries and max(bucket_boundaries) > largest:
    raise ValueError(
        f'BatchElements: the bucket from {max(bucket_boundaries)!r} of '
        'bucket_boundaries (batch_bucket_boundaries of a ModelHandler) holds no '
        f'element within BatchingOptions(max_padded_size={largest!r}). Leave '
        'that boundary out, or raise the limit.')


def check_windows(owner: str, windowing: Windowing) -> None:
  """Refuses windows whose state would have to be merged.

  Raises:
    ValueError: if windows merge, as sessions do.
  """
  if not isinstance(windowing.windowfn, NonMergingWindowFn):
    raise ValueError(
        f'{owner}: elements cannot wait for each other across bundles in '
        f'windows that merge, such as {windowing.windowfn}. Leave '
        'max_batch_duration_secs out, or window into others first.')


def check_runner(owner: str, pipeline: 'Pipeline') -> None:
  """Refuses runners that would lose elements that wait, or never fire timers.

  Raises:
    ValueError: for Prism where it may split bundles of a key, and for Spark in
      streaming.
  """
  options, runner = pipeline.options, type(pipeline.runner).__name__
  debug_options = options.view_as(DebugOptions)
  if (runner == 'PrismRunner' and
      not debug_options.lookup_experiment('prism_disable_sdf_split')):
    raise ValueError(
        f'{owner}: with max_batch_duration_secs Prism {beam_version} loses and '
        'doubles elements where it splits a bundle of a key. Start the '
        'pipeline with --experiments=prism_disable_sdf_split.')
  if runner == 'SparkRunner' and options.view_as(StandardOptions).streaming:
    raise ValueError(
        f'{owner}: elements cannot wait for each other on Spark in streaming, '
        'which has no timers '
        '(https://github.com/apache/beam/issues/20397). Leave '
        'max_batch_duration_secs out.')


def check_picklable(
    owner: str, name: str, fn: Callable[[Any], int] | None) -> None:
  """Refuses a function that cannot be sent to the workers.

  Raises:
    TypeError: if it cannot be pickled; the message names the parameter.
  """
  try:
    pickler.dumps(fn)
  except Exception as e:
    raise TypeError(
        f'{owner}: {name}={fn!r:.200} cannot be pickled: {e}. Let it load what '
        'it holds when it is first called, or define it in a module.') from e


def default_options(min_batch_size: int) -> BatchingOptions:
  """What holds without options: room for some batches to choose from."""
  held = BatchingOptions().max_buffered_elements
  return BatchingOptions(max_buffered_elements=max(held, 8 * min_batch_size))


def options_with_metrics(
    options: BatchingOptions | None,
    batch_elements_kwargs: Mapping[str, Any],
    namespace: str) -> BatchingOptions | None:
  """Options whose metrics are in a namespace, where they have an effect."""
  kwargs = batch_elements_kwargs
  if not kwargs.get('length_fn'):
    return options
  options = options or default_options(kwargs.get('min_batch_size') or 1)
  return dataclasses.replace(options, metrics_namespace=namespace)
