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

"""When a failed call is made again. Imports nothing from Beam."""

import dataclasses
import email.utils
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Backoff:
  """Exponential back-off with jitter, that heeds what a server asks for.

  Args:
    max_retries: failures in a row, without a token between, that are retried.
    initial_secs: the longest wait after the first failure; it doubles with
      each further one,
    max_secs: up to this.
    max_retry_after_secs: a server that asks for a longer wait is given up.

  Raises:
    TypeError: if a value has the wrong type.
    ValueError: if a value is negative.
  """
  max_retries: int = 5
  initial_secs: float = 0.5
  max_secs: float = 30.0
  max_retry_after_secs: float = 120.0

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      kinds = int if field.name == 'max_retries' else (int, float)
      if not isinstance(value, kinds) or isinstance(value, bool):
        raise TypeError(f'Backoff({field.name}={value!r}): must be a number.')
      if not value >= 0:
        raise ValueError(
            f'Backoff({field.name}={value!r}): must not be negative.')

  def wait_secs(
      self,
      failures: int,
      random: float,
      retry_after: float | None = None) -> float | None:
    """How long to wait before the next call, or None to give up.

    Args:
      failures: in a row, from 1.
      random: from [0, 1).
      retry_after: what the server asked for, in seconds. The wait is never
        shorter, and a tenth longer at most than the longer of both.
    """
    if failures > self.max_retries:
      return None
    # Half of it at least, so that a burst is spread and yet waited out.
    longest = min(self.max_secs, self.initial_secs * 2.0**(failures - 1))
    wait = longest * (1 + random) / 2
    if retry_after is None:
      return wait
    if retry_after > self.max_retry_after_secs:
      return None
    return max(wait, retry_after * (1 + random / 10))


def retry_after_secs(headers: Mapping[str, str], now: float) -> float | None:
  """Reads Retry-After (RFC 9110, section 10.2.3), or OpenAI's retry-after-ms.

  Args:
    headers: of a response; their names in lower case.
    now: of time.time(), as Retry-After may be a date.

  Returns:
    None if there is none that can be read.
  """
  for name, unit in (('retry-after-ms', 1000), ('retry-after', 1)):
    value = headers.get(name, '')
    try:
      secs = float(value) / unit
    except ValueError:
      try:
        secs = email.utils.parsedate_to_datetime(value).timestamp() - now
      except (ValueError, TypeError, OverflowError):
        continue
    # Not a number compares false.
    if secs < float('inf'):
      return max(0.0, secs)
  return None
