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

"""Checks of the names of keyword arguments."""

import difflib
import logging
from collections.abc import Iterable

_LOGGER = logging.getLogger(__name__)


def check_known_arguments(
    owner: str, arguments: Iterable[str], known: Iterable[str]) -> None:
  """Refuses keyword arguments that nothing looks at.

  Raises:
    TypeError: if an argument is not known; the message names a similar one.
  """
  for message in _unknown(owner, arguments, known):
    raise TypeError(message)


def warn_of_unknown_arguments(
    owner: str, arguments: Iterable[str], known: Iterable[str]) -> None:
  """Warns of keyword arguments that nothing looks at, and names similar ones.
  """
  for message in _unknown(owner, arguments, known):
    _LOGGER.warning('%s It has no effect.', message)


def _unknown(owner, arguments, known):
  known = sorted(known)
  for name in arguments:
    if name not in known:
      similar = difflib.get_close_matches(name, known, 1)
      hint = f'Did you mean {similar[0]!r}?' if similar else 'Leave it out.'
      yield f'{owner}: unknown argument {name!r}. {hint}'
