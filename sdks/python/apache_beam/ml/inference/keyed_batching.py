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

"""Length and size functions for keyed model handlers."""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

__all__ = ['OfExample', 'functions_of_examples']

_FUNCTIONS = ('length_fn', 'element_size_fn')


class OfExample:
  """A function of the example in a (key, example) pair.

  An element that is no tuple has no key and is the example, as
  MaybeKeyedModelHandler has it.
  """
  def __init__(self, fn: Callable[[Any], int]):
    self._fn = fn

  def __call__(self, element: Any) -> int:
    return self._fn(element[1] if isinstance(element, tuple) else element)


def functions_of_examples(handler, kwargs: Mapping[str, Any]) -> dict[str, Any]:
  """The arguments for BatchElements whose functions see examples.

  Args:
    handler: the model handler; one that has no keys needs nothing.
    kwargs: its ``batch_elements_kwargs()``.
  """
  # Imported here because base imports this module.
  from apache_beam.ml.inference import base
  wrappers = (base._PreProcessingModelHandler, base._PostProcessingModelHandler)
  while isinstance(handler, wrappers):
    handler = handler._base
  keyed = (base.KeyedModelHandler, base.MaybeKeyedModelHandler)
  if not isinstance(handler, keyed):
    return dict(kwargs)
  return {
      name: OfExample(value) if name in _FUNCTIONS else value
      for name, value in kwargs.items()
  }
