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

"""Transforms that fold chunks into whole results, growing text or sentences.

Their input consists of chunks, or of pairs of a key and a chunk, as
RunInference emits them with ``iterative=...``::

  results = (
      prompts
      | RunInference(handler, iterative=IterativeOptions())
      | FoldToPredictionResult())

Chunks may arrive in any order. A transform keys them by their request id,
which shuffles them, and keeps them in state until all chunks before them have
arrived. An output has the timestamp and the window of the chunk that completed
it. If an earlier job emitted some chunks (``emitted_fn``), they are needed too:
``(chunks, kept) | beam.Flatten() | FoldToPredictionResult()``.

A request that lacks a chunk does not wait for ever. If no chunk of it arrives
for ``give_up_secs``, or its window or the input ends, it ends with the error
``'lost: chunk 3 of request ... did not arrive ...'``, as if RunInference had
ended it, and is counted in ``incomplete_requests`` in the namespace of the
transform. Its state is cleared. Chunks that arrive later are given up in turn.

Inputs among the failed inferences of ``with_exception_handling`` have no
result.

A chunk that arrives twice while its request is unfinished is a ValueError, as
two inputs have the same request id. If the first request is finished when the
second starts, both have a result. After a step that may repeat chunks of
finished requests, such as a source without exactly-once delivery, the repeated
chunks remain in state.

In the mode 'in_bundle' steps after a shuffle see chunks when the bundle ends.
With ``within_bundle=True`` these transforms do not shuffle. They fold in
memory, right after RunInference, and need all chunks of a request in order and
in one bundle::

  speech = (
      prompts
      | RunInference(handler, iterative=IterativeOptions(mode='in_bundle'))
      | Sentences(within_bundle=True)
      | beam.Map(lambda sentence: speak(sentence.text)))
"""

import math
from typing import Any
from typing import Literal

from apache_beam import typehints
from apache_beam.ml.inference.base import PredictionResult
from apache_beam.ml.inference.iterative.folds import do_fns as fold_fns
from apache_beam.ml.inference.iterative.folds import texts
from apache_beam.ml.inference.iterative.handler import Generation
from apache_beam.pipeline import PipelineVisitor
from apache_beam.runners.direct.direct_runner import SwitchingDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.test_stream import TestStream
from apache_beam.transforms.core import ParDo
from apache_beam.transforms.ptransform import PTransform
from apache_beam.transforms.window import NonMergingWindowFn

# Longer than a model is silent, or a worker or a job takes to start again.
_GIVE_UP_SECS = 3600.0


class _Fold(PTransform):
  """Folds the chunks of each request.

  Args:
    within_bundle: fold in memory, without a shuffle; see the module.
    give_up_secs: how long to wait for a chunk when others of its request have
      arrived; None: until the window ends.

  Raises:
    TypeError: if the input is known to be something else than chunks, or pairs
      with one; while it runs, if an element is.
    ValueError: if windows merge, such as sessions, but for within_bundle; while
      it runs, if a chunk comes twice.
  """
  def __init__(
      self,
      within_bundle: bool = False,
      give_up_secs: float | None = _GIVE_UP_SECS):
    super().__init__()
    if not isinstance(within_bundle, bool):
      raise TypeError(
          f'{type(self).__name__}(within_bundle={within_bundle!r}): must be a '
          'bool.')
    self._within_bundle = within_bundle
    self._give_up_secs = self._checked(give_up_secs)

  def _checked(self, secs):
    given = f'{type(self).__name__}(give_up_secs={secs!r})'
    if secs is not None:
      if not isinstance(secs, (int, float)) or isinstance(secs, bool):
        raise TypeError(f'{given}: must be a number of seconds, or None.')
      if not 0 < secs < math.inf:
        raise ValueError(f'{given}: must be positive.')
    if self._within_bundle and secs != _GIVE_UP_SECS:
      raise ValueError(
          f'{given}: has no effect with within_bundle, where nothing waits. '
          'Leave it out.')
    return secs

  def _fold(self) -> fold_fns.Fold:
    raise NotImplementedError

  def _output_type(self, chunk_type: Any) -> Any:
    raise NotImplementedError

  def expand(self, pcoll):
    owner = type(self).__name__
    is_keyed, chunk_type = fold_fns.chunk_type_of(owner, pcoll.element_type)
    out = self._output_type(chunk_type)
    if is_keyed is None:
      out = typehints.Any
    elif is_keyed:
      out = typehints.Tuple[pcoll.element_type.tuple_types[0], out]
    if self._within_bundle:
      do_fn = fold_fns.FoldWithinBundle(owner, self._fold())
      return pcoll | 'Fold' >> ParDo(do_fn).with_output_types(out)
    if not isinstance(pcoll.windowing.windowfn, NonMergingWindowFn):
      raise ValueError(
          f'{owner}: chunks cannot wait for each other in windows that merge, '
          f'such as {pcoll.windowing.windowfn}. Window into others first.')
    do_fn = fold_fns.stateful(
        owner,
        self._fold(),
        chunk_type,
        pcoll.element_type.tuple_types[0] if is_keyed else typehints.Any,
        self._give_up_secs if _has_clock(pcoll.pipeline) else None)
    by_request = typehints.Tuple[str, pcoll.element_type]
    return (
        pcoll
        | 'ByRequest' >> ParDo(
            fold_fns.WithRequestId(owner)).with_output_types(by_request)
        | 'Fold' >> ParDo(do_fn).with_output_types(out))


class FoldToPredictionResult(_Fold):
  """Folds the chunks of each input into one PredictionResult.

  Its inference is a ``handler.Generation``. Steps that were written for the
  results of RunInference work after it::

    prompts | RunInference(handler, iterative=...) | FoldToPredictionResult()

  The result of an input that was cancelled has what was made until then. From
  pairs of a key and a chunk it makes pairs of the key and the result.

  Args:
    errors: what an input does that ended with an error. ``'raise'``: it fails
      the bundle. ``'skip'``: it has no result.
    within_bundle, give_up_secs: see the module.

  Raises:
    RuntimeError: while it runs, for an input with an error, if errors is
      'raise'.
    ValueError: if errors is something else, if windows merge, and while it runs
      if a chunk arrives twice.
  """
  def __init__(
      self,
      errors: Literal['raise', 'skip'] = 'raise',
      within_bundle: bool = False,
      give_up_secs: float | None = _GIVE_UP_SECS):
    super().__init__(within_bundle, give_up_secs)
    if errors not in ('raise', 'skip'):
      raise ValueError(
          f"FoldToPredictionResult(errors={errors!r}): must be 'raise' or "
          "'skip'.")
    self._errors = errors

  def _fold(self):
    return fold_fns.WholeFold(self._results)

  def _output_type(self, chunk_type):
    return PredictionResult

  def _results(self, whole):
    if whole.finish_reason == 'error':
      if self._errors == 'skip':
        return []
      raise RuntimeError(
          f'FoldToPredictionResult: request {whole.request_id!r} ended with the '
          f"error {whole.error!r}. Give errors='skip' to leave such inputs "
          'out.')
    usage = whole.usage
    generation = Generation(
        whole.text,
        whole.token_ids,
        whole.values,
        whole.finish_reason,
        usage and usage.prompt_tokens,
        usage and usage.completion_tokens)
    return [PredictionResult(whole.example, generation, whole.model_id)]


class FinalsOnly(_Fold):
  """Folds the chunks of each input into its last chunk.

  Its text, token ids and values are those of all chunks, also of an input that
  ended with an error. Its index remains, which is the number of chunks less
  one::

    chunks | FinalsOnly() | beam.Filter(lambda chunk: not chunk.error)

  Args:
    within_bundle, give_up_secs: see the module.
  """
  def _fold(self):
    return fold_fns.WholeFold(_as_it_is)

  def _output_type(self, chunk_type):
    return chunk_type


class TextSoFar(_Fold):
  """Replaces each chunk by a ``PartialText``, the text from its start.

  Use it to show a text while it grows, not to store it: the total size is
  quadratic in the length of the text. A later shuffle may change the order,
  which the index gives. From pairs of a key and a chunk it makes pairs of the
  key and the text::

    chunks | TextSoFar() | beam.Map(lambda so_far: show(so_far.text))

  Args:
    within_bundle, give_up_secs: see the module.
  """
  def _fold(self):
    return fold_fns.TextFold(texts.grow)

  def _output_type(self, chunk_type):
    return texts.PartialText


class Sentences(_Fold):
  """Emits each ``Sentence`` of a text as soon as it is complete.

  ``texts.split`` says what ends a sentence. The rest of the text is the last
  one. From pairs of a key and a chunk it makes pairs of the key and the
  sentence::

    chunks | Sentences() | beam.Filter(lambda sentence: sentence.text.strip())

  Args:
    within_bundle, give_up_secs: see the module.
  """
  def _fold(self):
    return fold_fns.TextFold(texts.cut_sentences)

  def _output_type(self, chunk_type):
    return texts.Sentence


def _as_it_is(whole):
  return [whole]


class _HasTestStream(PipelineVisitor):
  found = False

  def visit_transform(self, applied):
    self.found = self.found or isinstance(applied.transform, TestStream)


def _has_clock(pipeline):
  """Whether to set timers of real time.

  The FnApiRunner fires them at once. For a DoFn that has such timers the direct
  runner gives it up, and Prism, and with them splittable DoFns. It does so for
  a TestStream anyway.
  """
  if isinstance(pipeline.runner, FnApiRunner):
    return False
  if not isinstance(pipeline.runner, SwitchingDirectRunner):
    return True
  visitor = _HasTestStream()
  pipeline.visit(visitor)
  return visitor.found
