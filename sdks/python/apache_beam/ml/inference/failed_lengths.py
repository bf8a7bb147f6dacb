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

"""Dead letters for elements that the user's own function cannot measure."""

from collections.abc import Callable
from typing import Any

import apache_beam as beam

__all__ = ['fail_unmeasurable']


def fail_unmeasurable(
    pcoll: beam.PCollection,
    measure: Callable[[Any], Any],
    **exception_handling) -> tuple[beam.PCollection, beam.PCollection]:
  """Measures elements, and parts those that cannot be measured from the others.

  Args:
    pcoll: the elements.
    measure: an element as batching by length takes it; raises for one that
      cannot be batched.
    **exception_handling: as for ``ParDo.with_exception_handling``.

  Returns:
    The measured elements, and the bad ones as failed batches of one,
    ``([element], error)``.
  """
  measured, bad = (
      pcoll
      | 'BeamML_RunInference_Measure' >>
      beam.Map(measure).with_exception_handling(**exception_handling))
  return measured, bad | 'BeamML_RunInference_Unmeasurable' >> beam.MapTuple(
      lambda element, error: ([element], error))
