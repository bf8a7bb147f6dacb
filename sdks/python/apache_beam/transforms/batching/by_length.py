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

"""What BatchElements does where a pipeline opted in to batching by length."""

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

from apache_beam import coders
from apache_beam.transforms.batching import groups
from apache_beam.transforms.batching import opt_in
from apache_beam.transforms.batching import stateful
from apache_beam.transforms.batching import user_functions
from apache_beam.transforms.batching import waiter
from apache_beam.transforms.batching.in_bundle import LengthBatchingDoFn
from apache_beam.transforms.batching.options import BatchingOptions
from apache_beam.transforms.core import ParDo

if TYPE_CHECKING:
  from apache_beam.pvalue import PCollection
  from apache_beam.transforms.util import BatchElements


@dataclasses.dataclass(frozen=True)
class Caller:
  """What a transform that uses BatchElements has decided for it.

  Args:
    owner: the transform that errors name.
    by_length: whether elements are batched by length.
    measured_type: the type of the elements, where they come measured; else
      None.
    model: names the model that runs the batches; None if it is not known.
  """
  owner: str
  by_length: bool
  measured_type: Any = None
  model: str | None = None


def decide(
    owner: str,
    pcoll: 'PCollection',
    length_fn: Callable[[Any], Any] | None,
    source: str,
    options: BatchingOptions | None,
    max_batch_duration_secs: float | None) -> bool:
  """Whether elements of a pipeline that opted in are batched by length.

  Logs the answer and the reason.

  Args:
    owner: the transform that the log and errors name.
    pcoll: the elements.
    length_fn: of an element; None if there is none.
    source: where the length function comes from; where there is none, why.
    options: those of the user.
    max_batch_duration_secs: that of BatchElements.

  Raises:
    TypeError, ValueError: if options would have no effect, or the runner would
      lose elements.
  """
  wait = max_batch_duration_secs
  why_not = source if length_fn is None else opt_in.why_not(
      owner, pcoll, length_fn, options, wait)
  if why_not:
    opt_in.say(owner, f'off: {why_not}')
    return False
  how = 'within each bundle'
  if wait is not None:
    bound = f'for at most {wait} s' if wait else 'until the end of its window'
    how = f'across bundles; an element is buffered {bound}'
  opt_in.say(owner, f'on, by {source}, {how}')
  return True


def expand(
    transform: 'BatchElements', pcoll: 'PCollection') -> 'PCollection | None':
  """Batches by length; None where elements are batched as without the flag.

  Raises:
    TypeError, ValueError: as ``decide``.
  """
  caller = transform._caller or _itself(transform, pcoll)
  if not caller.by_length:
    return None
  do_fn = length_batching_do_fn(transform, caller)
  if transform._max_batch_dur is None:
    return pcoll | ParDo(do_fn)
  return _stateful(transform, pcoll, do_fn, caller)


def length_batching_do_fn(
    transform: 'BatchElements', caller: Caller) -> LengthBatchingDoFn:
  """The DoFn that groups by length; its errors name the owner."""
  owner, size_fn = caller.owner, transform._element_size_fn
  opt_in.check_picklable(owner, 'element_size_fn', size_fn)
  length_fn = user_functions.checked(
      transform._length_fn, 'length_fn', owner, is_length=True)
  size_fn = user_functions.checked(size_fn, 'element_size_fn', owner)
  sums = [(size_fn, transform._max_batch_size)]
  if transform._max_batch_weight is not None:
    sums = [(None, transform._max_batch_size),
            (size_fn, transform._max_batch_weight)]
  args = dict(transform._in_bundle_args)
  args['min_batch_size'] = opt_in.whole_size(args['min_batch_size'])
  return LengthBatchingDoFn(
      length_fn,
      sums,
      transform._options,
      is_measured=caller.measured_type is not None,
      model=caller.model,
      **args)


def _itself(transform, pcoll):
  owner, length_fn = transform.label, transform._length_fn
  options, wait = transform._options, transform._max_batch_dur
  source = 'length_fn' if length_fn else 'no length_fn is given'
  return Caller(
      owner,
      opt_in.is_enabled(pcoll.pipeline.options, options, owner) and
      decide(owner, pcoll, length_fn, source, options, wait))


def _stateful(transform, pcoll, do_fn, caller):
  # Imported here because util imports this module.
  from apache_beam.transforms.util import WithSharedKey
  element_type, wait = caller.measured_type, transform._max_batch_dur or math.inf
  if element_type is None:
    element_type = pcoll.element_type
  shards = transform._options and transform._options.shards
  group_type = groups.group_type(element_type)
  in_groups = ParDo(groups.InGroups(do_fn, wait, shards))
  if shards:
    keyed = pcoll | in_groups.with_output_types(tuple[int, group_type])
  else:
    keyed = (
        pcoll | in_groups.with_output_types(group_type)
        | ParDo(WithSharedKey()).with_output_types(tuple[str, group_type]))
  return keyed | ParDo(
      stateful.stateful_do_fn(
          coders.registry.get_coder(element_type), waiter.Waiter(do_fn, wait)))
