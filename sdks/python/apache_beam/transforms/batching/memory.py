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

"""About how much memory an element takes, at the cost of a look at it."""

import sys
from typing import Any

__all__ = ['approximate_bytes']

# Deep enough for a key with a dict of lists.
_DEPTH = 3
# How many parts of a long list stand for all of them.
_PARTS = 16
_FLAT = frozenset((bool, bytes, float, int, str))


def approximate_bytes(element: Any, depth: int = _DEPTH) -> int:
  """The bytes of an element with what it holds, as far as is cheap to know.

  Counts tensors and arrays by their ``nbytes``, goes into tuples, lists and
  dicts of up to three levels, where 16 parts, evenly spaced, stand for all, and
  counts other objects without what they refer to.
  """
  if type(element) in _FLAT:
    return element.__sizeof__()
  if not isinstance(element, (tuple, list, dict)):
    nbytes = getattr(element, 'nbytes', None)
    return nbytes if isinstance(nbytes, int) else sys.getsizeof(element, 64)
  total = sys.getsizeof(element)
  if depth and element:
    parts = [*element.values()] if isinstance(element, dict) else element
    some = parts[::-(-len(parts) // _PARTS)]
    # Most parts are flat, and a call takes as long as their size.
    sizes = [
        part.__sizeof__() if type(part) in _FLAT else approximate_bytes(
            part, depth - 1) for part in some
    ]
    total += sum(sizes) * len(parts) // len(sizes)
  return total
