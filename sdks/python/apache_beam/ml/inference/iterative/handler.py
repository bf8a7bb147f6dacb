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

"""Model handlers that can generate step by step."""

import abc
import dataclasses
import itertools
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from apache_beam.ml.inference.base import ModelHandler
from apache_beam.ml.inference.base import PredictionResult
from apache_beam.ml.inference.iterative.session import Delta
from apache_beam.ml.inference.iterative.session import Request
from apache_beam.ml.inference.iterative.session import Session


class SupportsSessions(abc.ABC):
  """The methods that ``RunInference(handler, iterative=...)`` calls."""
  @abc.abstractmethod
  def open_session(self) -> Session:
    """Loads the model, or connects to its server.

    Called once for each worker process and model.
    """

  def prompt_of(self, example: Any) -> Any:
    """Returns the prompt that is submitted to the session for an example.

    Raises:
      ValueError: if the example cannot be taken; the message says why.
    """
    return example

  def token_limit(self, inference_args: Mapping[str, Any]) -> int | None:
    """The maximum number of tokens that an input gets; None: unknown."""
    for name in ('max_new_tokens', 'max_completion_tokens', 'max_tokens'):
      limit = inference_args.get(name)
      if isinstance(limit, int) and limit > 0:
        return limit
    return None

  def check_session_args(self, inference_args: Mapping[str, Any]) -> None:
    """Checks the inference_args of a session when the pipeline is built.

    For arguments that validate_inference_args accepts because the handler
    supports them without a session.

    Raises:
      TypeError: if an argument has the wrong type.
      ValueError: if one is unknown or out of range; the message names it.
    """

  def session_model_id(self) -> str | None:
    """The model_id of chunks."""
    return None


@dataclasses.dataclass(frozen=True, eq=False)
class Generation:
  """The whole result for an input, as the inference of a PredictionResult.

  Attributes:
    text, token_ids, values: as in a Chunk, from the start to the end.
    finish_reason: one of ``chunk.FINISH_REASONS``.
    prompt_tokens, completion_tokens: None if the engine does not report them.
  """
  text: str = ''
  token_ids: tuple[int, ...] = ()
  values: np.ndarray | None = None
  finish_reason: str | None = None
  prompt_tokens: int | None = None
  completion_tokens: int | None = None


class SessionModelHandler(ModelHandler[Any, PredictionResult, Session],
                          SupportsSessions):
  """A ModelHandler whose model is a session.

  Without ``iterative=`` RunInference generates each batch to its end, and
  results are PredictionResults with a ``Generation``. Subclasses define
  ``open_session``.

  Args:
    kwargs: those of ``ModelHandler``.

  Raises:
    ValueError: if the model is to be shared by several processes.
  """
  def __init__(self, **kwargs):
    super().__init__(**kwargs)
    if super().share_model_across_processes():
      raise ValueError(
          f'{type(self).__name__}: a session belongs to one process, so '
          'large_model and model_copies have no effect. Leave them out; a model '
          'that all processes share needs a server.')

  def load_model(self) -> Session:
    return self.open_session()

  def run_inference(
      self,
      batch: Sequence[Any],
      model: Session,
      inference_args: Mapping[str, Any] | None = None
  ) -> Iterable[PredictionResult]:
    """Generates for a batch at the same time.

    Raises:
      RuntimeError: if the model fails for one of them.
    """
    requests = [
        Request(_next_id(), self.prompt_of(example), inference_args or {})
        for example in batch
    ]
    try:
      model.submit_batch(requests, fixed=True)
      for example, request in zip(batch, requests):
        yield PredictionResult(
            example,
            _to_the_end(model, request.request_id),
            self.session_model_id())
    finally:
      for request in requests:
        model.cancel(request.request_id)

  def pads_batches(self) -> bool:
    return False


_numbers = itertools.count()


def _next_id() -> str:
  # Never leaves the process.
  return f'one-shot-{next(_numbers)}'


def _to_the_end(session: Session, request_id: str) -> Generation:
  whole = Delta()
  while whole.finish_reason is None:
    # A last delta is always ready; whatever is before it waits for it.
    delta = session.poll(request_id, timeout=60, ready=lambda _: False)
    if delta is not None:
      whole += delta
  if whole.error:
    raise RuntimeError(whole.error)
  return Generation(
      whole.text,
      whole.token_ids,
      whole.values,
      whole.finish_reason,
      whole.prompt_tokens,
      whole.tokens)
