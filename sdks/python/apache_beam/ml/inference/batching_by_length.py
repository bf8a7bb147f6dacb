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

"""How RunInference batches its examples, by length where it opted in."""

from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

import apache_beam as beam
from apache_beam.ml.inference import failed_lengths
from apache_beam.ml.inference import lengths
from apache_beam.transforms.batching import by_length
from apache_beam.transforms.batching import opt_in

if TYPE_CHECKING:
  from apache_beam.ml.inference.base import RunInference


def batch(
    transform: 'RunInference', pcoll: beam.PCollection
) -> tuple[beam.PCollection, beam.PCollection | None]:
  """Batches the examples of a RunInference.

  Returns:
    The batches; and, where the user's own function measures examples and the
    transform has dead letters, the examples that it failed for, as failed
    batches of one; else None.

  Raises:
    TypeError, ValueError: if its batching_options would have no effect.
  """
  return batch_by(transform, pcoll, length_fn_of(transform, pcoll))


def length_fn_of(
    transform: 'RunInference',
    pcoll: beam.PCollection,
    waits: bool = True) -> Callable[[Any], Any] | None:
  """The length of an element, where batches are formed by length.

  Args:
    transform: the RunInference.
    pcoll: its elements.
    waits: whether they may wait across bundles, if the handler says so.

  Raises:
    TypeError, ValueError: if its batching_options would have no effect.
  """
  handler, options = transform._model_handler, transform._batching_options
  owner = transform.label
  if not opt_in.is_enabled(pcoll.pipeline.options, options, owner):
    return None
  length_fn, source = lengths.of_handler(
      handler, transform._inference_args, options, owner)
  wait = handler.batch_elements_kwargs().get('max_batch_duration_secs')
  is_on = by_length.decide(
      owner, pcoll, length_fn, source, options, wait if waits else None)
  return length_fn if is_on else None


def batch_by(
    transform: 'RunInference',
    pcoll: beam.PCollection,
    length_fn: Callable[[Any], Any] | None
) -> tuple[beam.PCollection, beam.PCollection | None]:
  """As ``batch``, by what ``length_fn_of`` returned."""
  handler, options = transform._model_handler, transform._batching_options
  owner, given = transform.label, handler.batch_elements_kwargs()
  if length_fn is None:
    return pcoll | _batch_elements(given, None, owner, False), None
  model = transform._model_tag
  kwargs = {**given, 'length_fn': length_fn}
  namespace = transform._metrics_namespace or handler.get_metrics_namespace()
  options = opt_in.options_with_metrics(
      options, given.get('min_batch_size'), namespace)
  bad, measured_type = None, None
  users_own = 'length_fn' in given or options.oversized == 'refuse'
  if transform._with_exception_handling and users_own:
    measured_type = pcoll.element_type
    pcoll, bad = failed_lengths.fail_unmeasurable(
        pcoll,
        by_length.length_batching_do_fn(
            beam.BatchElements(**kwargs, options=options),
            by_length.Caller(owner, True, model=model)).measure,
        exc_class=transform._exc_class,
        threshold=transform._threshold)
  batches = pcoll | _batch_elements(
      kwargs, options, owner, True, measured_type=measured_type, model=model)
  return batches, bad


def skip(transform: 'RunInference', pcoll: beam.PCollection) -> None:
  """Says that batches come from the user.

  Raises:
    ValueError: if batching_options are given.
  """
  if transform._batching_options is not None:
    raise ValueError(
        f'{transform.label}: batching_options have no effect, because the model '
        'handler skips batching. Leave them out.')
  if opt_in.is_enabled(pcoll.pipeline.options, None, transform.label):
    opt_in.say(transform.label, 'off: the model handler skips batching')


def _batch_elements(kwargs, options, owner, is_by_length, **found):
  batch_elements = beam.BatchElements(**kwargs, options=options)
  batch_elements._caller = by_length.Caller(owner, is_by_length, **found)
  return batch_elements
