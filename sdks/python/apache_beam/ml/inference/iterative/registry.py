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

"""The sessions of a worker process, shared by all that use the same model.

In a module of its own, since an object that lives in ``__main__`` would be
pickled with the DoFn.
"""

import threading
from collections.abc import Callable
from collections.abc import Hashable

from apache_beam.ml.inference.iterative.session import Session

__all__ = ['Lease', 'acquire']


class Lease:
  """A user's hold of a session, which stays open until all are released."""
  def __init__(self, entry: '_Entry', open_session: Callable[[], Session]):
    self._entry = entry
    self._open_session = open_session

  def session(self) -> Session:
    """The open session; another one if that has died."""
    entry = self._entry
    with entry.lock:
      if entry.session is None or not entry.session.is_alive:
        dead, entry.session = entry.session, None
        if dead is not None:
          dead.close()
        entry.session = self._open_session()
      return entry.session

  def release(self) -> None:
    """Gives it back; once."""
    entry, self._entry = self._entry, None
    with _lock:
      entry.users -= 1
      if entry.users:
        return
      del _entries[entry.key]
    with entry.lock:
      if entry.session is not None:
        entry.session.close()


class _Entry:
  def __init__(self, key):
    self.key = key
    self.users = 0
    self.session = None
    # Of its own, so that a model that is loaded keeps no other one waiting.
    self.lock = threading.Lock()


_lock = threading.Lock()
_entries: dict[Hashable, _Entry] = {}


def acquire(key: Hashable, open_session: Callable[[], Session]) -> Lease:
  """Takes a hold of the process's session for a key.

  Args:
    key: of the model; the same for all that share it.
    open_session: loads it. Called when the session is first asked for.
  """
  with _lock:
    entry = _entries.get(key)
    if entry is None:
      entry = _entries[key] = _Entry(key)
    entry.users += 1
  return Lease(entry, open_session)
