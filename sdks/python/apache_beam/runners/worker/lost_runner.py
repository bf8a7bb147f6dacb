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

"""What the threads of a worker say when the runner has gone."""

import functools
import logging
import threading
from collections.abc import Callable
from typing import Any

import grpc

__all__ = ['is_lost', 'logged']

_LOGGER = logging.getLogger(__name__)
_CODES = (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)


def is_lost(error: BaseException) -> bool:
  """Whether a call failed because the runner ended, or is not there."""
  # The errors of a server have no code.
  return isinstance(error, grpc.Call) and error.code() in _CODES


def logged(run: Callable[[], Any]) -> Callable[[], None]:
  """The function of a thread, which ends with one line if the runner is lost.
  """
  @functools.wraps(run)
  def wrapper():
    try:
      run()
    except grpc.RpcError as e:
      if not is_lost(e):
        raise
      _LOGGER.warning(
          '%s: the runner has gone (%s)',
          threading.current_thread().name,
          e.code().name)

  return wrapper
