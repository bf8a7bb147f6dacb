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

import atexit
import logging
import threading
import uuid
import weakref
from collections.abc import Callable
from collections.abc import Hashable
from typing import Any
from typing import NamedTuple
from typing import TypeVar

from apache_beam.ml.inference.iterative.session import Session

_LOGGER = logging.getLogger(__name__)

T = TypeVar('T')


class SessionKey(NamedTuple):
  """Names the session of a model in one pipeline.

  A process that runs several pipelines, such as a notebook, closes the idle
  sessions of earlier pipelines before a later one opens its own.

  Attributes:
    pipeline: unique for each pipeline.
    model: the same for all transforms that share the model.
  """
  pipeline: str
  model: str


_pipelines = weakref.WeakKeyDictionary()


def session_key(pipeline: Any, model: str) -> SessionKey:
  """The key of a model in a pipeline that is being built.

  Args:
    pipeline: the Pipeline.
    model: RunInference's model_identifier.
  """
  return SessionKey(_pipelines.setdefault(pipeline, uuid.uuid4().hex), model)


class InFlight:
  """Counts the requests in flight in a session, over all of its users.

  Attributes:
    any_yet: whether there was a request.
  """
  def __init__(self):
    self.any_yet = False
    # Counting takes it again.
    self._lock = threading.RLock()
    # A user that was never torn down must not hold its share for ever.
    self._counts = weakref.WeakKeyDictionary()

  def __len__(self) -> int:
    with self._lock:
      return sum(self._counts.values())

  def add(self, user: Any, count: int, limit: int) -> bool:
    """Counts requests of a user, unless there would be more than the limit."""
    with self._lock:
      if len(self) + count > limit:
        return False
      self._counts[user] = self._counts.get(user, 0) + count
      self.any_yet = True
      return True

  def remove(self, user: Any, count: int = 1) -> None:
    if count:
      with self._lock:
        self._counts[user] -= count


class Lease:
  """A user's hold of a session, which stays open while anybody has one.

  Attributes:
    in_flight: the requests of the session.
  """
  def __init__(
      self,
      entry: '_Entry',
      open_session: Callable[[], Session],
      idle_secs: float = 0.0):
    self._entry = entry
    self._open_session = open_session
    self._idle_secs = idle_secs

  @property
  def in_flight(self) -> InFlight:
    return self._entry.in_flight

  def session(self) -> Session:
    """The open session; another one if that has died."""
    entry = self._entry
    with entry.lock:
      if _is_exiting:
        raise RuntimeError('The process ends, so no session is opened.')
      if entry.session is None or not entry.session.is_alive:
        dead, entry.session = entry.session, None
        if dead is not None:
          dead.close()
        _close_idle_of_other_pipelines(entry.key)
        entry.session = self._open_session()
      return entry.session

  def attached(self, key: Hashable, make: Callable[[], T]) -> T:
    """An object that lives as long as the session; made if there is none."""
    entry = self._entry
    with entry.lock:
      if key not in entry.attached:
        entry.attached[key] = make()
      return entry.attached[key]

  def release(self) -> None:
    """Gives it back. A second call does nothing."""
    entry, self._entry = self._entry, None
    if entry is None:
      return
    with _lock:
      entry.users -= 1
      if entry.users:
        return
      # A session that had no request is closed at once, to free its memory.
      is_wanted = entry.session is not None and entry.in_flight.any_yet
      if is_wanted and self._idle_secs > 0:
        entry.close_after(self._idle_secs)
        return
      del _entries[entry.key]
    entry.close()


class _Entry:
  def __init__(self, key):
    self.key = key
    self.users = 0
    self.session = None
    self.in_flight = InFlight()
    self.attached = {}
    # Of its own, so that a model that is loaded keeps no other one waiting.
    # Attached objects may be made while the session is opened.
    self.lock = threading.RLock()
    self._timer: threading.Timer | None = None

  def close_after(self, secs):
    self._timer = threading.Timer(secs, _close_idle, (self, ))
    self._timer.name = 'idle-session'
    self._timer.daemon = True
    self._timer.start()

  def keep(self):
    timer, self._timer = self._timer, None
    if timer is not None:
      timer.cancel()

  def close(self):
    self.keep()
    with self.lock:
      session, self.session = self.session, None
    if session is not None:
      session.close()


_lock = threading.Lock()
_entries: dict[Hashable, _Entry] = {}
_is_exiting = False


def acquire(
    key: Hashable,
    open_session: Callable[[], Session],
    idle_secs: float = 0.0) -> Lease:
  """Takes a hold of the process's session for a key.

  Args:
    key: of the model; the same for all that share it.
    open_session: loads it. Called when the session is first asked for.
    idle_secs: how long the session stays open after its last release, if it
      had requests. A runner releases what was not busy for a minute, and a
      model may take longer to load.
  """
  with _lock:
    entry = _entries.get(key)
    if entry is None:
      entry = _entries[key] = _Entry(key)
    entry.users += 1
    entry.keep()
  return Lease(entry, open_session, idle_secs)


def acquire_open(
    key: Hashable,
    open_session: Callable[[], Session],
    idle_secs: float = 0.0) -> Lease:
  """As acquire, with an open session; nothing is held if it does not open."""
  lease = acquire(key, open_session, idle_secs)
  try:
    lease.session()
  except BaseException:
    lease.release()
    raise
  return lease


def _close_idle(entry):
  with _lock:
    if entry.users or _entries.get(entry.key) is not entry:
      return
    del _entries[entry.key]
  entry.close()


def _close_idle_of_other_pipelines(key):
  if isinstance(key, SessionKey):
    for entry in list(_entries.values()):
      if isinstance(entry.key, SessionKey) and entry.key[0] != key.pipeline:
        _close_idle(entry)


@atexit.register
def _close_all():
  """Python cuts off threads at its end, and engines abort if cut off amid C++.
  """
  global _is_exiting
  _is_exiting = True
  with _lock:
    entries = list(_entries.values())
    _entries.clear()
  for entry in entries:
    try:
      entry.close()
    except Exception:  # pylint: disable=broad-except
      _LOGGER.warning('A session did not close.', exc_info=True)
