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

"""How a pipeline opts in to batching by length, and whether it can have it."""

import dataclasses
import logging
import math
from collections.abc import Callable
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

from apache_beam.internal import pickler
from apache_beam.options.pipeline_options import DebugOptions
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.pipeline_options import StandardOptions
from apache_beam.transforms.batching import flink
from apache_beam.transforms.batching import state_coders
from apache_beam.transforms.batching.options import BatchingOptions
from apache_beam.version import __version__ as beam_version

if TYPE_CHECKING:
  from apache_beam.pvalue import PCollection

_LOGGER = logging.getLogger(__name__)

EXPERIMENT = 'smart_bucketing'
# A job in streaming starts on Flink without finishing bundles nevertheless.
UNSAFE_FLINK = 'allow_unsafe_smart_bucketing'
# Experiments this close to the name of one of ours are taken for a slip.
_EXPERIMENTS = (EXPERIMENT, 'iterative_inference')
_MOST_SLIPS = 2
# Of a batch: all of a bundle.
_MAX_SIZE = 1 << 30


def say(owner: str, state: str) -> None:
  """Logs whether a transform batches by length, once for each transform."""
  _LOGGER.info('%s: batching by length is %s.', owner, state)


def is_enabled(
    pipeline_options: PipelineOptions,
    batching_options: BatchingOptions | None,
    owner: str) -> bool:
  """Whether the pipeline asked for length-aware batching.

  Warns of an experiment that differs from one of ours by a slip.

  Raises:
    ValueError: if the transform was given options that would have no effect,
      or the experiment has a value that says neither yes nor no.
  """
  debug_options = pipeline_options.view_as(DebugOptions)
  value = debug_options.lookup_experiment(EXPERIMENT, False)
  if value not in (True, False):
    named = value.lower()
    if named not in ('true', 'false'):
      raise ValueError(
          f'{owner}: --experiments={EXPERIMENT}={value} must be '
          f'--experiments={EXPERIMENT}, or be left out.')
    value = named == 'true'
  if not value:
    _warn_of_slips(debug_options.experiments or (), owner)
    if batching_options is not None:
      raise ValueError(
          f'{owner}: BatchingOptions need --experiments={EXPERIMENT}. Start '
          'the pipeline with it, or leave the options out.')
  return value


def _warn_of_slips(experiments, owner):
  for experiment in experiments:
    name = experiment.partition('=')[0].strip()
    alike = name.lower().replace('-', '_')
    for ours in _EXPERIMENTS:
      if name != ours and _edit_distance(alike, ours) <= _MOST_SLIPS:
        _LOGGER.warning(
            '%s: --experiments=%s is not known and has no effect. Did you mean '
            '--experiments=%s?',
            owner,
            name,
            ours)


def _edit_distance(one_word: str, other: str) -> int:
  """How many letters are added, left out or replaced (Levenshtein 1966)."""
  row = list(range(len(other) + 1))
  for i, letter in enumerate(one_word, 1):
    diagonal, row[0] = row[0], i
    for j, match in enumerate(other, 1):
      diagonal, row[j] = row[j], min(
          row[j] + 1, row[j - 1] + 1, diagonal + (letter != match))
  return row[-1]


def check_options(
    options: BatchingOptions | None,
    length_fn: Callable[[Any], int] | None,
    min_batch_size: int,
    max_batch_duration_secs: float | None,
    bucket_boundaries: Sequence[int] | None) -> None:
  """Refuses options that could not have their effect in BatchElements.

  Raises:
    TypeError: if they are no BatchingOptions.
    ValueError: if another parameter is missing or contradicts them.
  """
  if options is None:
    return
  check_type('BatchElements: options', options)
  if length_fn is None:
    raise ValueError(
        'BatchElements: options requires length_fn to be set '
        '(batch_length_fn of a ModelHandler).')
  if max_batch_duration_secs is None:
    for name, default in (('optimize_for', 'latency'), ('shards', None)):
      value = getattr(options, name)
      if value != default:
        raise ValueError(
            f'BatchElements: BatchingOptions({name}={value!r}) needs '
            'max_batch_duration_secs, without which no element is buffered '
            'beyond its bundle.')
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


def check_type(parameter: str, options: BatchingOptions | None) -> None:
  """Raises a TypeError if the value of a parameter is no BatchingOptions."""
  if not isinstance(options, (BatchingOptions, type(None))):
    raise TypeError(
        f'{parameter}={options!r:.200} must be a BatchingOptions, such as '
        'BatchingOptions(max_padded_size=8192).')


def why_not(
    owner: str,
    pcoll: 'PCollection',
    length_fn: Callable[[Any], int],
    options: BatchingOptions | None,
    max_batch_duration_secs: float | None) -> str | None:
  """Why elements are batched as without the flag; None if by length.

  Raises:
    TypeError: if options are given and the length function cannot be pickled.
    ValueError: if options are given for windows that merge; and for a runner
      that would lose what is buffered in state.
  """
  stateful = max_batch_duration_secs is not None
  if stateful and state_coders.is_old(pcoll):
    return 'the pipeline keeps the state of an earlier release'
  try:
    check_picklable(owner, 'length_fn', length_fn)
    if stateful and pcoll.windowing.windowfn.is_merging():
      raise ValueError(
          f'{owner}: elements cannot be buffered across bundles in windows '
          f'that merge, such as {pcoll.windowing.windowfn}. Leave '
          'max_batch_duration_secs out, or window into others first.')
  except (TypeError, ValueError) as e:
    if options is not None:
      raise
    return str(e).removeprefix(f'{owner}: ').rstrip('.')
  if stateful:
    check_runner(owner, pcoll.pipeline)
  return None


def check_runner(owner: str, pipeline) -> None:
  """Refuses runners that would lose what is buffered, or never fire timers.

  Raises:
    ValueError: for Prism where it may split bundles of a key, for Flink in
      streaming where checkpoints lose elements, and for Spark in streaming.
  """
  options, runner = pipeline.options, type(pipeline.runner).__name__
  debug_options = options.view_as(DebugOptions)
  if (runner == 'PrismRunner' and
      not debug_options.lookup_experiment('prism_disable_sdf_split')):
    raise ValueError(
        f'{owner}: with max_batch_duration_secs Prism {beam_version} loses and '
        'duplicates elements where it splits a bundle of a key. Start the '
        'pipeline with --experiments=prism_disable_sdf_split.')
  if not options.view_as(StandardOptions).streaming:
    return
  if runner == 'SparkRunner':
    raise ValueError(
        f'{owner}: elements cannot wait for each other on Spark in streaming, '
        'which has no timers '
        '(https://github.com/apache/beam/issues/20397). Leave '
        'max_batch_duration_secs out.')
  if runner == 'FlinkRunner':
    flink.require_finished_bundles(
        owner,
        options,
        'elements that wait across bundles are lost',
        UNSAFE_FLINK)
  elif runner == 'PortableRunner' and not flink.finishes_bundles(owner,
                                                                 options):
    flink.warn_once(
        f'{owner}: batching by length across bundles',
        runner,
        'It needs state and timers.')


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
  """What holds without options: a buffer of several batches to choose from."""
  held = BatchingOptions().max_buffered_elements
  return BatchingOptions(
      max_buffered_elements=max(held, 8 * whole_size(min_batch_size)))


def whole_size(batch_size: float) -> int:
  """The least number of elements that is no less than a batch size."""
  return math.ceil(min(batch_size, _MAX_SIZE))


def options_with_metrics(
    options: BatchingOptions | None, min_batch_size: int | None,
    namespace: str) -> BatchingOptions:
  """Options, the default ones if there are none, with a metrics namespace."""
  options = options or default_options(min_batch_size or 1)
  return dataclasses.replace(options, metrics_namespace=namespace)
