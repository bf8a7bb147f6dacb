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

"""Runs a batch in parts where the whole of it fails."""

import dataclasses
import math
import traceback
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

from apache_beam.metrics import Metrics
from apache_beam.ml.inference.lengths import innermost
from apache_beam.pvalue import PCollection
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.batching.policy.memory_limit import report_out_of_memory
from apache_beam.transforms.combiners import CountCombineFn
from apache_beam.transforms.core import CombineGlobally
from apache_beam.transforms.core import DoFn
from apache_beam.transforms.core import Map
from apache_beam.transforms.core import _TimeoutDoFn

# What errors say that are for lack of memory, in small letters: torch on an
# accelerator, on MPS and by its CPU allocator, JAX and XLA, TensorFlow, ONNX
# Runtime, cuBLAS and cuDNN.
_OUT_OF_MEMORY = (
    'out of memory',
    'outofmemory',
    'not enough memory',
    "can't allocate memory",
    'cannot allocate memory',
    'failed to allocate memory',
    'failed to allocate request',
    'attempting to allocate',
    'oom when allocating',
    'status_alloc_failed',
    'bad allocation',
    'bad_alloc')
# Whose errors are looked at beside RuntimeErrors.
_LIBRARIES = frozenset((
    'cupy',
    'jax',
    'jaxlib',
    'onnxruntime',
    'tensorflow',
    'tensorrt',
    'torch',
    'xla_extension'))
# So many causes of an error are looked at.
_CAUSES = 4


def is_out_of_memory(error: BaseException) -> bool:
  """Whether a smaller batch may do: by the error's type, or by the messages of
  the libraries that run models, its causes among them."""
  for _ in range(_CAUSES):
    if isinstance(error, MemoryError):
      return True
    library = type(error).__module__.partition('.')[0] in _LIBRARIES
    if isinstance(error, RuntimeError) or library:
      message = str(error).lower()
      if any(part in message for part in _OUT_OF_MEMORY):
        return True
    error = error.__cause__
    if error is None:
      return False
  return False


@dataclasses.dataclass
class _Part:
  """Elements of a batch, by their places in it, that failed together."""
  places: range
  error: Exception
  scarce: bool


class _Call(DoFn):
  def process(self, function):
    yield function()


class BatchSplitter:
  """Runs a batch that fails in parts.

  One that does not fit in memory is run in halves, and these likewise. With
  ``bisects`` so is a batch that fails for another reason, until its bad elements
  are found: one of n takes at most ``2 * log2(n) + 2`` more calls, and however
  many there are at most ``n + 2 * log2(n)``.

  Each call gets a list of its own, as a model handler may change it.

  Args:
    namespace: of the counter ``batches_split``.
    exc_class: the failures that are handed back instead of raised; None for
      those that are raised.
    bisects: whether batches are also run in parts where such a failure is not
      for lack of memory.
    timeout: how many seconds each call may take; None for no bound.
    splits_timeouts: whether a call that took longer is run in parts. Not where
      the model is deleted then.
  """
  def __init__(
      self,
      namespace: str,
      exc_class: type | tuple | None = None,
      bisects: bool = False,
      timeout: float | None = None,
      splits_timeouts: bool = True):
    self._exc_class = exc_class or ()
    self._bisects = bisects
    self._splits_timeouts = splits_timeouts
    self._split = Metrics.counter(namespace, 'batches_split')
    self._timed = None if timeout is None else _TimeoutDoFn(_Call(), timeout)

  def in_time(self, function: Callable[[], Any]) -> Any:
    """What a function returns.

    Raises:
      TimeoutError: if it takes longer than a call may.
    """
    if self._timed is None:
      return function()
    result, = self._timed.process(function)
    return result

  def run(self, function: Callable[[list[Any]], list],
          batch: Sequence[Any]) -> tuple[list, list[tuple[list, tuple]]]:
    """Runs a batch.

    Args:
      function: a batch's results, in order.
      batch: the elements; left as it is.

    Returns:
      The results of what did not fail, in order, and what failed, as
      ``ParDo.with_exception_handling`` hands it on:
      ``(elements, (class, repr, lines of the traceback))``; with ``bisects`` for
      each element alone, else in one piece.
    """
    elements = [*batch]
    # By the place of their first element, since a handler may give any number.
    results: dict[int, list] = {}
    failed: list[_Part] = []

    def call(places):
      """Runs some elements; the part, if they fail."""
      try:
        found = self.in_time(
            lambda: function([elements[place] for place in places]))
      except Exception as e:  # pylint: disable=broad-except
        scarce = is_out_of_memory(e)
        if not scarce and not isinstance(e, self._exc_class):
          raise
        if not scarce and not self._bisects and len(places) == len(elements):
          # As it fails without a splitter.
          raise
        if isinstance(e, TimeoutError) and not self._splits_timeouts:
          raise
        if scarce and len(places) == 1 and not isinstance(e, self._exc_class):
          raise
        # The traceback holds what memory there was.
        return _Part(places, e.with_traceback(None) if scarce else e, scarce)
      results[places.start] = found
      return None

    part = call(range(len(elements)))
    pending, calls = [] if part is None else [part], 0
    while pending:
      if any(part.scarce for part in pending):
        report_out_of_memory(batch)
      halves = []
      at_once = self._runs_each_alone(pending, calls, len(elements))
      for part in pending:
        if len(part.places) == 1 or not (part.scarce or self._bisects):
          failed.append(part)
        else:
          self._split.inc()
          halves += _alone(part) if at_once else _halves(part)
      calls += len(halves)
      pending = [part for part in map(call, halves) if part is not None]
    in_order = [
        result for place in sorted(results) for result in results[place]
    ]
    return in_order, self._failures(failed, elements)

  def _runs_each_alone(self, pending, calls, count):
    """Whether halves, if they all fail, would be more calls than are allowed."""
    if any(part.scarce for part in pending):
      return False
    remaining = sum(len(part.places) for part in pending)
    most = count + 2 * math.log2(max(1, count))
    return calls + 2 * len(pending) + remaining > most

  def _failures(self, failed, elements):
    """What failed, as dead letters."""
    failed.sort(key=lambda part: part.places.start)
    letters = [([elements[place] for place in part.places],
                _described(part.error)) for part in failed]
    if self._bisects or len(letters) < 2:
      return letters
    # One for a batch, as without a splitter.
    return [(sum((held for held, _ in letters), []), letters[0][1])]


def _halves(part):
  middle = (len(part.places) + 1) // 2
  return [part.places[:middle], part.places[middle:]]


def _alone(part):
  return [part.places[i:i + 1] for i in range(len(part.places))]


def _described(error):
  return type(error), repr(error), traceback.format_exception(error)


def splitter_for(
    handler,
    metrics_namespace: str | None,
    exc_class: type | tuple | None,
    backs_off: bool,
    bisects: bool,
    timeout: float | None,
    owner: str) -> BatchSplitter | None:
  """The splitter of a RunInference; None where batches are not to be split.

  Args:
    handler: its model handler.
    metrics_namespace: its own, None for that of the handler.
    exc_class: as with_exception_handling has it; None or False without it.
    backs_off: whether batches that do not fit in memory are split, unless they
      are the user's, or ``splits_failed_batches`` says no.
    bisects: whether bad elements are to be found.
    timeout: of each call.
    owner: the transform, for the message.

  Raises:
    ValueError: if bad elements are to be found in batches of the user's.
  """
  inner = innermost(handler)
  # MLTransform wraps the handlers of embeddings.
  wrapped = getattr(inner, '_underlying', None)
  if hasattr(wrapped, 'splits_failed_batches'):
    inner = wrapped
  if handler.should_skip_batching():
    if bisects:
      raise ValueError(
          f'{owner}: bisect_failed_batches has no effect, because the model '
          'handler skips batching. Leave it out.')
    return None
  if not bisects and not (backs_off and inner.splits_failed_batches()):
    return None
  namespace = metrics_namespace or handler.get_metrics_namespace()
  return BatchSplitter(
      namespace,
      exc_class or None,
      bisects,
      timeout,
      not handler.should_garbage_collect_on_timeout())


def as_dead_letters(failures: Iterable[tuple[list, tuple]]):
  """Outputs for those that with_exception_handling collects."""
  # The tag that ParDo.with_exception_handling has by default.
  return [TaggedOutput('bad', failure) for failure in failures]


def check_share(
    examples: PCollection, failed_batches: PCollection,
    threshold: float) -> None:
  """Fails a pipeline in which more than a share of the examples fail.

  ``ParDo.with_exception_handling`` would count batches as the whole, of which
  each may now fail several times.

  Args:
    examples: all of them, before they are batched.
    failed_batches: ``(examples, error)`` pairs.
    threshold: the largest share, from 0 to 1.

  Raises:
    ValueError: in the pipeline, for each window in which more fail.
  """
  def check(failed, total):
    if failed > total * threshold:
      raise ValueError(
          f'RunInference: {failed} of {total} examples of a window failed, '
          f'more than with_exception_handling(threshold={threshold}) allows.')

  total = examples | 'BeamML_RunInference_CountExamples' >> CombineGlobally(
      CountCombineFn()).as_singleton_view()
  sizes = failed_batches | 'BeamML_RunInference_SizeOfFailed' >> Map(
      lambda failed: len(failed[0]))
  failed = sizes | 'BeamML_RunInference_CountFailed' >> CombineGlobally(
      sum).without_defaults()
  _ = failed | 'BeamML_RunInference_CheckShare' >> Map(check, total)
