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

"""Dead letters for elements whose length or size cannot be told."""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import apache_beam as beam
from apache_beam.transforms.batching.validation import checked

__all__ = ['fail_unmeasurable']

_FUNCTIONS = ('length_fn', 'element_size_fn')


class _Measure:
  """Calls the functions that batching will call, for what they raise."""
  def __init__(self, functions: list[Callable[[Any], int]]):
    self._functions = functions

  def __call__(self, element):
    for function in self._functions:
      function(element)
    return element


def fail_unmeasurable(
    pcoll: beam.PCollection,
    batch_elements_kwargs: Mapping[str, Any],
    owner: str,
    **exception_handling) -> tuple[beam.PCollection, beam.PCollection]:
  """Parts elements that cannot be batched from the others.

  Each function is called once more for every element; a slow one, such as a
  tokenizer, is better run in a step in front of RunInference.

  Args:
    pcoll: the elements.
    batch_elements_kwargs: with a length_fn, an element_size_fn or both.
    owner: the transform, for the messages.
    **exception_handling: as for ``ParDo.with_exception_handling``.

  Returns:
    The good elements, and the bad ones as failed batches of one,
    ``([element], error)``.
  """
  functions = [
      checked(batch_elements_kwargs[name], name, owner, strict=True)
      for name in _FUNCTIONS if batch_elements_kwargs.get(name)
  ]
  good, bad = (
      pcoll
      | 'BeamML_RunInference_Measure' >> beam.Map(
          _Measure(functions)).with_exception_handling(**exception_handling))
  return good, bad | 'BeamML_RunInference_Unmeasurable' >> beam.MapTuple(
      lambda element, error: ([element], error))
