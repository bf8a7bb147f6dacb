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

"""The length of the example in a (key, example) pair."""

from collections.abc import Callable
from typing import Any


class _OfExample:
  """A function of the example in an element.

  In 2.77 keyed handlers hand the pair to the function. One that was written
  for that, and so fails for the example, still gets it.

  Args:
    fn: maps an example to its length.
    always_keyed: whether each element is a pair, of any type. Otherwise one
      that is no tuple has no key, as MaybeKeyedModelHandler has it.
  """
  def __init__(self, fn: Callable[[Any], Any], always_keyed: bool):
    self._fn = fn
    self._always_keyed = always_keyed

  def __call__(self, element: Any) -> Any:
    if not self._always_keyed and not isinstance(element, tuple):
      return self._fn(element)
    try:
      return self._fn(element[1])
    except Exception:
      try:
        return self._fn(element)
      except Exception:  # pylint: disable=broad-except
        pass
      raise


def of_example(handler, length_fn: Callable[[Any],
                                            Any]) -> Callable[[Any], Any]:
  """A function of an element that sees its example.

  Args:
    handler: the model handler; one that has no keys needs nothing.
    length_fn: the length of an example.
  """
  # Imported here because base imports this module.
  from apache_beam.ml.inference import base
  wrappers = (base._PreProcessingModelHandler, base._PostProcessingModelHandler)
  while isinstance(handler, wrappers):
    handler = handler._base
  if isinstance(handler, base.KeyedModelHandler):
    return _OfExample(length_fn, True)
  if isinstance(handler, base.MaybeKeyedModelHandler):
    return _OfExample(length_fn, False)
  return length_fn
