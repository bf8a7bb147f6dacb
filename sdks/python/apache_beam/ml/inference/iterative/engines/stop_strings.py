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

"""Where a stop string ends a text, however it is cut. No Beam here."""

from collections.abc import Sequence


def find_stop(text: str, stop: Sequence[str]) -> int | None:
  """Where the stop string starts that is complete first, if there is one."""
  starts = ((text.find(one), one) for one in stop)
  found = [(at + len(one), at) for at, one in starts if at >= 0]
  return min(found)[1] if found else None


def may_be_stop(text: str, stop: Sequence[str]) -> int:
  """The length of the longest end of a text that starts a stop string."""
  longest = max(map(len, stop), default=1) - 1
  for length in range(min(longest, len(text)), 0, -1):
    if any(one.startswith(text[-length:]) for one in stop):
      return length
  return 0
