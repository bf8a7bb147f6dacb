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

"""Hands what changes on a board to all who watch it."""

import collections
import threading
from typing import Any

from apache_beam.examples.inference.iterative_live_page.board import Board

__all__ = ['Feed', 'TooManyWatchers', 'Watcher']

# An event is a name and what it tells.
Event = tuple[str, dict[str, Any]]


class TooManyWatchers(Exception):
  """No more can be served."""


class Watcher:
  """One who watches: a queue of events that never holds more than so many.

  Whoever comes late, or takes too slowly, gets the state as it is then instead
  of what led to it.
  """
  def __init__(self, feed: 'Feed', most: int):
    self._feed = feed
    self._most = most
    self._events: collections.deque[Event] = collections.deque()
    self._is_behind = True

  def take(self, timeout: float) -> list[Event]:
    """Takes the events since the last time, in order.

    Waits for one for at most so many seconds.
    """
    with self._feed.changed:
      self._feed.changed.wait_for(
          lambda: self._is_behind or self._events or self._feed.is_closed,
          timeout)
      events = list(self._events)
      if self._is_behind:
        events = [('snapshot', self._feed.board.snapshot())]
      self._events.clear()
      self._is_behind = False
      return events

  def _offer(self, event):
    self._events.append(event)
    if self._is_behind or len(self._events) > self._most:
      self._events.clear()
      self._is_behind = True

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self._feed.leave(self)


class Feed:
  """A board, shared by threads that change it and threads that watch it.

  Args:
    board: nobody else may use it.
    most_watchers: at the same time.
    most_events: that wait for a watcher.
  """
  def __init__(
      self, board: Board, most_watchers: int = 16, most_events: int = 256):
    self.board = board
    self.changed = threading.Condition()
    self.is_closed = False
    self._most_watchers = most_watchers
    self._most_events = most_events
    self._watchers: set[Watcher] = set()
    self._watched = threading.Event()

  def publish(self, message: Any) -> None:
    """Takes a message of ``Board.apply``.

    Raises:
      ValueError: if the board refuses it.
    """
    with self.changed:
      self._tell('lane', self.board.apply(message))

  def set_status(self, status: str) -> None:
    with self.changed:
      self._tell('status', self.board.set_status(status))

  def snapshot(self) -> dict[str, Any]:
    with self.changed:
      return self.board.snapshot()

  def watch(self) -> Watcher:
    """Starts to watch; to be used as a context manager.

    Raises:
      TooManyWatchers: if so many do already.
    """
    with self.changed:
      if len(self._watchers) >= self._most_watchers:
        raise TooManyWatchers(f'{self._most_watchers} pages are open already')
      watcher = Watcher(self, self._most_events)
      self._watchers.add(watcher)
    self._watched.set()
    return watcher

  def leave(self, watcher: Watcher) -> None:
    with self.changed:
      self._watchers.discard(watcher)
      self.changed.notify_all()

  def wait_for_watcher(self, timeout: float | None = None) -> bool:
    """Waits until somebody has watched; False if nobody did in that time."""
    return self._watched.wait(timeout)

  def close(self, timeout: float = 2.0) -> None:
    """Ends what waits, and gives watchers so many seconds to leave."""
    with self.changed:
      self.is_closed = True
      self.changed.notify_all()
      self.changed.wait_for(lambda: not self._watchers, timeout)

  def _tell(self, name, change):
    if change is None:
      return
    for watcher in self._watchers:
      watcher._offer((name, change))
    self.changed.notify_all()
