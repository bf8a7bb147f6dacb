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

"""Runs a batch in halves where the whole of it fails."""

import traceback
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

from apache_beam.metrics import Metrics
from apache_beam.ml.inference.lengths import innermost
from apache_beam.pvalue import PCollection
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.batching.memory_limit import report_out_of_memory
from apache_beam.transforms.combiners import CountCombineFn
from apache_beam.transforms.core import CombineGlobally
from apache_beam.transforms.core import Map

__all__ = [
    'BatchSplitter',
    'as_dead_letters',
    'check_share',
    'is_out_of_memory',
    'splitter_for',
]

# What torch says, on an accelerator and by its CPU allocator.
_OUT_OF_MEMORY = ('out of memory', 'not enough memory', "can't allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
  """Whether a smaller batch may do; torch is told by its messages."""
  if isinstance(error, MemoryError):
    return True
  message = str(error)
  return isinstance(error, RuntimeError) and any(
      part in message for part in _OUT_OF_MEMORY)


class BatchSplitter:
  """Halves a batch that fails, down to the elements that fail alone.

  One bad element of n takes at most ``2 * log2(n)`` more calls, rounded up.

  Args:
    namespace: of the counter ``batches_split``.
    exc_class: which failures are split beside those for lack of memory, and
      then handed back instead of raised. None for those that are raised.
  """
  def __init__(self, namespace: str, exc_class: type | tuple | None = None):
    self._exc_class = exc_class or ()
    self._split = Metrics.counter(namespace, 'batches_split')

  def run(
      self, function: Callable[[Sequence[Any]], list],
      batch: Sequence[Any]) -> tuple[list, list[tuple[list, tuple]]]:
    """Runs a batch.

    Args:
      function: a batch's results, in order.
      batch: is halved by slices.

    Returns:
      The results of what did not fail, in order, and the elements that failed,
      as ``ParDo.with_exception_handling`` hands on what failed:
      ``([element], (class, repr, lines of the traceback))``.
    """
    return self._run(function, batch, batch)

  def _run(self, function, batch, whole):
    try:
      return function(batch), []
    except Exception as e:
      scarce = is_out_of_memory(e)
      handled = isinstance(e, self._exc_class)
      if len(batch) < 2:
        if not handled:
          raise
        failed = type(e), repr(e), traceback.format_exception(e)
        return [], [(list(batch), failed)]
      if not scarce and not handled:
        raise
    # Outside of the handler, since the traceback holds what memory there was.
    if scarce:
      report_out_of_memory(whole)
    self._split.inc()
    middle = (len(batch) + 1) // 2
    results, failures = self._run(function, batch[:middle], whole)
    more_results, more_failures = self._run(function, batch[middle:], whole)
    return results + more_results, failures + more_failures


def splitter_for(
    handler, metrics_namespace: str | None,
    exc_class: type | tuple | None) -> BatchSplitter | None:
  """None for a handler whose batches are not to be split.

  Those are batches of the user's, and what ``splits_failed_batches`` says.

  Args:
    exc_class: as with_exception_handling has it; None or False without it.
  """
  inner = innermost(handler)
  # MLTransform wraps the handlers of embeddings.
  inner = getattr(inner, '_underlying', inner)
  if handler.should_skip_batching() or not inner.splits_failed_batches():
    return None
  namespace = metrics_namespace or handler.get_metrics_namespace()
  return BatchSplitter(namespace, exc_class or None)


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
