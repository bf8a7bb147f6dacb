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

"""What becomes of inputs that fail, with and without a dead letter output."""

import dataclasses
import traceback
from collections.abc import Iterator
from typing import Any

from apache_beam import pvalue
from apache_beam.ml.inference.iterative.chunk import Chunk

# The tag of inputs that failed, where they are asked for.
FAILED = 'failed_inferences'
# Of kinds of errors; others are RuntimeErrors.
_CLASSES = {
    'duplicate': ValueError, 'invalid': ValueError, 'timeout': TimeoutError
}


def exception_of(error: str) -> Exception:
  """The exception that an error ``'kind: message'`` stands for.

  Inputs that are invalid or duplicates are a ValueError, those that take too
  long a TimeoutError, and all others, of the engine or the server, a
  RuntimeError.
  """
  return _CLASSES.get(error.partition(':')[0], RuntimeError)(error)


@dataclasses.dataclass(frozen=True)
class DeadLetters:
  """Sends inputs that fail to an output of their own, and nowhere else.

  As ``ParDo.with_exception_handling`` has it; that would send every element of
  a splittable DoFn there.

  Args:
    exc_class: a class or a tuple of classes. What fails with another exception
      fails its bundle.

  Raises:
    TypeError: if exc_class is something else.
  """
  exc_class: type | tuple = Exception

  def __post_init__(self):
    classes = self.exc_class
    if not isinstance(classes, tuple):
      classes = (classes, )
    for one in classes:
      if not (isinstance(one, type) and issubclass(one, BaseException)):
        raise TypeError(
            f'with_exception_handling(exc_class={self.exc_class!r}): must be an '
            'exception class, or a tuple of such classes.')

  def outputs(self, element: Any, chunk: Chunk,
              cause: Exception | None) -> Iterator[Chunk | pvalue.TaggedOutput]:
    """What is emitted for the last chunk of an input that failed.

    A chunk if others were emitted before, which have to have an end, and the
    input with its error.

    Args:
      element: the input, with its key if it has one.
      chunk: its last one.
      cause: what was raised for it in this process, if anything was.

    Raises:
      Exception: that of the input, if it is not of exc_class.
    """
    failure = self._caught(cause) or self._caught(exception_of(chunk.error))
    if failure is None:
      raise cause or exception_of(chunk.error)
    if chunk.index > 0:
      yield dataclasses.replace(chunk, dead_lettered=True)
    lines = [chunk.error]
    if failure.__traceback__ is not None:
      lines = traceback.format_exception(failure)
    yield pvalue.TaggedOutput(
        FAILED, ([element], (type(failure), chunk.error, lines)))

  def _caught(self, failure):
    """The failure, or what it was raised for, if it is to be caught."""
    while failure is not None and not isinstance(failure, self.exc_class):
      failure = failure.__cause__
    return failure
