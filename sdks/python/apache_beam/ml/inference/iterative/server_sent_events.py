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

"""Reads server-sent events in bounded memory. Imports nothing from Beam."""

__all__ = ['EventReader', 'EventTooLarge']


class EventTooLarge(Exception):
  """An event is longer than allowed."""


class EventReader:
  """Cuts a stream of bytes into the data of its events.

  Only what HTML's standard calls ``data`` is kept: event names, ids, comments
  and retry times say nothing in an OpenAI-compatible stream. An event that is
  not followed by an empty line is dropped, as the standard wants: what follows
  a cut connection may be half of it.

  Args:
    max_event_bytes: of a line, and of the data of an event.
  """
  def __init__(self, max_event_bytes: int):
    self._limit = max_event_bytes
    self._line = bytearray()
    self._data: list[bytes] = []
    self._size = 0
    self._skips_newline = False

  def feed(self, received: bytes) -> list[bytes]:
    """Takes bytes, however they are cut.

    Returns:
      The data of the events that became whole.

    Raises:
      EventTooLarge: if one is longer than allowed.
    """
    events = []
    # A line ends with \n, \r or \r\n.
    if self._skips_newline and received[:1] == b'\n':
      received = received[1:]
      self._skips_newline = False
    if received:
      self._skips_newline = received[-1:] == b'\r'
    received = received.replace(b'\r\n', b'\n').replace(b'\r', b'\n')
    *whole, rest = received.split(b'\n')
    for part in whole:
      self._extend(part)
      line, self._line = bytes(self._line), bytearray()
      event = self._take(line)
      if event is not None:
        events.append(event)
    self._extend(rest)
    return events

  def _extend(self, part: bytes) -> None:
    self._line += part
    if len(self._line) + self._size > self._limit:
      raise EventTooLarge(f'an event of the stream exceeds {self._limit} bytes')

  def _take(self, line: bytes) -> bytes | None:
    if line:
      field, _, value = line.partition(b':')
      if field == b'data':
        self._data.append(value.removeprefix(b' '))
        self._size += len(value)
      return None
    if not self._data:
      return None
    event = b'\n'.join(self._data)
    self._data, self._size = [], 0
    return event
