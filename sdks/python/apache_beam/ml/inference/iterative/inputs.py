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

"""How elements become requests."""

import dataclasses
import uuid
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

from apache_beam.ml.inference.iterative.emitted import Emitted
from apache_beam.ml.inference.iterative.handler import SupportsSessions
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.ml.inference.iterative.session import Request


@dataclasses.dataclass(frozen=True)
class Inputs:
  """What elements are.

  Args:
    handler: that of the model, without its key.
    keyed: whether elements are (key, example) pairs; None: those that are
      tuples, as MaybeKeyedModelHandler has it.
    inference_args: those of RunInference.
    length_fn: of an element, where the session is to form batches by length.
  """
  handler: SupportsSessions
  keyed: bool | None
  inference_args: Mapping[str, Any]
  length_fn: Callable[[Any], int] | None = None

  def is_keyed(self, element: Any) -> bool:
    """Raises TypeError if the element should have a key and has none."""
    if self.keyed is None:
      return isinstance(element, tuple)
    if self.keyed and (not isinstance(element,
                                      (tuple, list)) or len(element) != 2):
      raise TypeError(
          f'RunInference: with a KeyedModelHandler each element must be a pair '
          f'(key, example), but got {element!r:.200}. Give it a key, or use the '
          'model handler without keys.')
    return self.keyed

  def example_of(self, element: Any) -> Any:
    return element[1] if self.is_keyed(element) else element

  def with_key(self, element: Any, output: Any) -> Any:
    return (element[0], output) if self.is_keyed(element) else output

  def request(self, request_id: str, element: Any) -> Request:
    """Raises ValueError if the handler does not take the example."""
    example = self.example_of(element)
    try:
      prompt = self.handler.prompt_of(example)
    except ValueError:
      raise
    except Exception as e:
      raise ValueError(f'{example!r:.200} makes no prompt: {e!r}') from e
    length = None
    if self.length_fn is not None:
      try:
        length = self.length_fn(element)
      except Exception as e:
        raise ValueError(
            f'the length of {example!r:.200} cannot be told: {e!r}') from e
    return Request(request_id, prompt, self.inference_args, length=length)


def request_id_of(options: IterativeOptions, element: Any) -> str:
  """What names an input; a random name without a function.

  Raises:
    ValueError: if request_id_fn fails or returns no str.
  """
  if options.request_id_fn is None:
    return uuid.uuid4().hex
  try:
    request_id = options.request_id_fn(element)
  except Exception as e:
    raise ValueError(f'request_id_fn raised {e!r} for {element!r:.200}') from e
  if not isinstance(request_id, str):
    raise ValueError(
        f'request_id_fn returned {request_id!r} for {element!r:.200}; it must '
        'return a str')
  return request_id


def emitted_before(options: IterativeOptions, element: Any) -> Emitted:
  """What an earlier job emitted for an input; without one, nothing.

  Raises:
    ValueError: if emitted_fn fails or returns something else, or if it is all.
  """
  if options.emitted_fn is None:
    return Emitted()
  try:
    emitted = options.emitted_fn(element)
  except Exception as e:
    raise ValueError(f'emitted_fn raised {e!r} for {element!r:.200}') from e
  if emitted is None:
    return Emitted()
  if not isinstance(emitted, Emitted):
    raise ValueError(
        f'emitted_fn returned {emitted!r:.200} for {element!r:.200}; it must '
        'return an Emitted or None')
  if emitted.is_finished:
    raise ValueError(
        f'emitted_fn says that {element!r:.200} is finished. Filter such inputs '
        'out')
  return emitted


def duplicate_of(request_id: str) -> str:
  """The error of an input whose request id another one has in flight."""
  return (
      f'duplicate: The request id {request_id!r} is in flight already. Let '
      'request_id_fn give each input one of its own.')
