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

"""What pipelines make of chunks: whole results, growing text, sentences.

Each transform takes chunks, or pairs of a key and a chunk, as RunInference
gives them with ``iterative=...``::

  results = (
      prompts
      | RunInference(handler, iterative=IterativeOptions())
      | FoldToPredictionResult())

Chunks may come in any order, such as after a shuffle: they are keyed by their
request id, which shuffles them, and wait in state until those before them are
there. What comes out has the timestamp of the chunk that completed it, and its
window. So chunks that an earlier job emitted (``emitted_fn``) have to be put in
too: ``(chunks, kept) | beam.Flatten() | FoldToPredictionResult()``.

A request of which a chunk is lost does not wait for ever. If nothing arrives for
it in ``give_up_secs``, or its window or the input ends, it ends with the error
``'lost: chunk 3 of request ... did not arrive ...'``, as if RunInference had
ended it so, and is counted in ``incomplete_requests`` in the namespace of the
transform. Nothing stays in state. What arrives later is given up in turn.

Of inputs that RunInference sent to the failed inferences of
``with_exception_handling`` no result is made.

A chunk that comes twice while its request is unfinished is a ValueError: two
inputs have one request id. If the first is finished when the second starts,
both come out. Behind a step that may repeat chunks of finished requests, such
as a source without exactly-once delivery, what is repeated stays in state.

In the mode 'in_bundle' chunks are seen after a shuffle when their bundle ends.
A step that is to see them sooner is put right after RunInference, and so are
these transforms with ``within_bundle=True``: then they fold in memory, without
a shuffle, and need all chunks of a request in order and in one bundle::

  speech = (
      prompts
      | RunInference(handler, iterative=IterativeOptions(mode='in_bundle'))
      | Sentences(within_bundle=True)
      | beam.Map(lambda sentence: speak(sentence.text)))
"""

import math
from typing import Any

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
  """Makes one PredictionResult of all chunks of an input.

  Its inference is a ``handler.Generation``. So what takes RunInference's results
  can take those of RunInference with ``iterative=...`` after this. Inputs that
  were cancelled give what was made until then, with that finish reason. Keyed
  chunks give pairs of the key and the result.

  Args:
    errors: ``'raise'``, an input that ended with an error fails the bundle, or
      ``'skip'``, it gives nothing.
    within_bundle, give_up_secs: see the module.

  Raises:
    RuntimeError: while it runs, if errors is 'raise' and one came.
    ValueError: if errors is something else. And what else is raised by all
      transforms of the module: if windows merge, or a chunk comes twice.
  """
  def __init__(
      self,
      errors: str = 'raise',
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
  """Keeps the last chunk of each input, and puts the whole result into it.

  Its text, token ids and values are those of all chunks, its index stays: one
  less than how many there were. What ended with an error has what came before::

    chunks | FinalsOnly() | beam.Filter(lambda chunk: not chunk.error)

  Args:
    within_bundle, give_up_secs: see the module.
  """
  def _fold(self):
    return fold_fns.WholeFold(_as_it_is)

  def _output_type(self, chunk_type):
    return chunk_type


class TextSoFar(_Fold):
  """Gives the text from its start to each chunk, a ``texts.PartialText``.

  Each starts with the one before, and all of them together are as long as the
  square of the text: this is to show a text while it grows, not to store it.
  Keyed chunks give pairs of the key and that. Another shuffle may change their
  order, which their index tells::

    chunks | TextSoFar() | beam.Map(lambda so_far: show(so_far.text))

  Args:
    within_bundle, give_up_secs: see the module.
  """
  def _fold(self):
    return fold_fns.TextFold(texts.grow)

  def _output_type(self, chunk_type):
    return texts.PartialText


class Sentences(_Fold):
  """Cuts texts into sentences, each a ``texts.Sentence`` as it is completed.

  What ends a sentence is told by ``texts.split``; what is left at the end is
  the last one. Keyed chunks give pairs of the key and the sentence::

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
