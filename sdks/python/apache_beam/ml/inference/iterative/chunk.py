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

"""What an iterative inference emits: the parts of each result, in order."""

import dataclasses
from typing import Generic
from typing import TypeVar

import numpy as np

ExampleT = TypeVar('ExampleT')

# The model ended the text, it reached a limit of tokens, it was stopped (by
# stop_when or a drain), it failed.
FINISH_REASONS = ('stop', 'length', 'cancelled', 'error')


@dataclasses.dataclass(frozen=True)
class Usage:
  """Token counts of a whole result; None if the engine does not report them."""
  prompt_tokens: int | None = None
  completion_tokens: int | None = None


@dataclasses.dataclass(frozen=True)
class Timings:
  """Durations of a whole result in seconds, measured where the model runs.

  Attributes:
    queued: from the arrival of the input to its submission to the engine.
    first: from the submission to the first token; None without a token.
    total: from the submission to the last token.
  """
  queued: float = 0.0
  first: float | None = None
  total: float = 0.0


@dataclasses.dataclass(frozen=True)
class Chunk(Generic[ExampleT]):
  """A part of the result for one input.

  The chunks of an input have the same request id and the indices 0, 1, 2, ...
  Exactly one of them is the last; its text may be empty.

  Attributes:
    request_id: the result of ``IterativeOptions.request_id_fn`` for the input,
      or a random str.
    index: the position among the chunks of the input, from 0, without a gap.
    text: what this chunk adds to the text, in whole characters.
    token_ids: the tokens that this chunk adds; empty if the engine does not
      report them. If they end within a character, the next chunk has its text.
    values: what this chunk adds if the model makes arrays; of any shape.
    finish_reason: on the last chunk one of FINISH_REASONS, otherwise None.
    error: ``'kind: message'`` with the finish reason 'error', otherwise None.
    usage, timings, model_id, example: set on the last chunk only.
    dead_lettered: whether with_exception_handling put the input among the
      failed inferences after other chunks of it were emitted. Folds make no
      result of such an input.
  """
  request_id: str
  index: int
  text: str = ''
  token_ids: tuple[int, ...] = ()
  values: np.ndarray | None = None
  finish_reason: str | None = None
  error: str | None = None
  usage: Usage | None = None
  timings: Timings | None = None
  model_id: str | None = None
  example: ExampleT | None = None
  dead_lettered: bool = False

  @property
  def is_last(self) -> bool:
    return self.finish_reason is not None

  @property
  def error_kind(self) -> str | None:
    return self.error and self.error.partition(':')[0]

  def __eq__(self, other):
    # A comparison of arrays has no truth value.
    if not isinstance(other, Chunk):
      return NotImplemented
    mine, theirs = vars(self).copy(), vars(other).copy()
    one, another = mine.pop('values'), theirs.pop('values')
    if (one is None) != (another is None):
      return False
    return mine == theirs and (one is None or np.array_equal(one, another))

  def __hash__(self):
    return hash((self.request_id, self.index))
