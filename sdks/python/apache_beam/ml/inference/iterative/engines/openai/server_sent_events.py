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

"""Reads server-sent events in bounded memory. Imports nothing from Beam.

httpx-sse drops what servers do send: the fields named ``error`` of llama.cpp,
an end without an empty line, errors that are plain JSON, and comments, which
show that a server is alive.
"""

import json
import re
from typing import Any

# The data of the mark at the end of a stream, however it is written.
DONE = '[DONE]'

_LINE_END = re.compile(rb'\r\n|\n|\r(?!\Z)')
_FIELDS = frozenset((b'data', b'event', b'id', b'retry', b'error', b''))
# How the first line of a stream starts.
_FIELD = re.compile(rb'(data|event|id|retry|error)?:')
_MARK = b'\xef\xbb\xbf'
_BLANK = _MARK + b' \t\r\n\0'


class EventTooLarge(Exception):
  """An event is longer than allowed."""


class EventReader:
  """Cuts a body into the names and the data of its events.

  Data is a value of JSON, DONE, or bytes that are neither. An event ends with the line
  that completes its JSON, so no empty line need follow. A body that does not
  start as a stream does is one event, complete at its end.

  Args:
    max_event_bytes: of an event.
  """
  def __init__(self, max_event_bytes: int):
    self._limit = max_event_bytes
    # Of a line, or of a body that is no stream.
    self._rest = b''
    # None: that is not known yet.
    self.is_stream: bool | None = None
    self._name = ''
    self._data: list[bytes] = []
    self._size = 0

  def feed(self, received: bytes) -> list[tuple[str, Any]]:
    """Takes bytes, however they are cut; returns the events that they complete.

    Raises:
      EventTooLarge: if one is longer than allowed.
    """
    self._rest += received
    if self.is_stream is None:
      self._rest = self._rest.lstrip(_BLANK)
      self.is_stream = _is_stream(self._rest)
    events = []
    if self.is_stream:
      *lines, self._rest = _LINE_END.split(self._rest)
      for line in lines:
        events += self._take(line)
    self._check(len(self._rest))
    return events

  def end(self) -> list[tuple[str, Any]]:
    """What is complete, if nothing follows; half of an event is dropped."""
    rest, self._rest = self._rest.rstrip(_BLANK), b''
    if not self.is_stream:
      whole = _value(rest)
      # Some put an error before what is a stream then.
      lines = _LINE_END.split(rest) if isinstance(whole, bytes) else []
      events = [event for line in lines for event in self._take(line)]
      return events or ([('', whole)] if rest else [])
    return [(name, data) for name, data in self._take(rest) + self._take(b'')
            if not isinstance(data, bytes) or data and data[:1] not in b'{["']

  def _take(self, line: bytes) -> list[tuple[str, Any]]:
    line = line.removeprefix(_MARK)
    field, _, value = line.partition(b':')
    value = value.removeprefix(b' ')
    is_rest = self._data[:1] and self._data[0].startswith(b'{')
    if line.startswith(b'{') or line and is_rest and field not in _FIELDS:
      # JSON that stands alone, in one line or in several.
      field, value = b'data', line
    elif field == b'event':
      self._name = value.decode(errors='replace').strip()
    elif field == b'error':
      field, self._name = b'data', 'error'
    if field == b'data':
      self._data.append(value)
      self._size += len(value)
      self._check()
      # What has several lines is read once, at its end.
      data = _value(value) if len(self._data) == 1 else b''
      if isinstance(data, bytes):
        return []
    elif line:
      return []
    else:
      data = _value(b'\n'.join(self._data))
    events = [(self._name, data)] if self._data else []
    self._name, self._data, self._size = '', [], 0
    return events

  def _check(self, more: int = 0) -> None:
    if self._size + more > self._limit:
      raise EventTooLarge(f'an event of the stream exceeds {self._limit} bytes')


def _is_stream(head: bytes) -> bool | None:
  """Whether a body is one; None if its head is too short to tell."""
  if _FIELD.match(head):
    return True
  return None if len(head) < 6 and b'\n' not in head else False


def _value(data: bytes) -> Any:
  if data.strip(b' "').upper() in (b'[DONE]', b'DONE'):
    return DONE
  try:
    # Some write control characters as they are.
    return json.loads(data, strict=False)
  except (ValueError, RecursionError):
    return data
