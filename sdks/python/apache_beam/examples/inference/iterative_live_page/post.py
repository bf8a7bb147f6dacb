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

"""Sends what a pipeline makes to the server of the live page."""

import http.client
import json
from collections.abc import Callable
from typing import Any

import apache_beam as beam
from apache_beam.ml.inference.base import PredictionResult
from apache_beam.ml.inference.iterative import Chunk

__all__ = ['Post', 'chunk_message', 'result_message', 'start_message']

_TIMEOUT_SECS = 10
# Of an error, in characters.
_MOST_ERROR = 1_000


class Post(beam.DoFn):
  """Sends a message about each element to the page, and hands the element on.

  A message that comes twice, since its bundle was tried again, changes nothing.

  Args:
    port: of the server, on this machine.
    way: one of ``board.WAYS``.
    message_of: makes the rest of a message of an element.

  Raises:
    RuntimeError: if the server cannot be reached or refuses the message.
  """
  def __init__(
      self, port: int, way: str, message_of: Callable[[Any], dict[str, Any]]):
    self._port = port
    self._way = way
    self._message_of = message_of

  def process(self, element):
    message = {'way': self._way, **self._message_of(element)}
    try:
      status, reason = self._send(json.dumps(message).encode())
    except OSError as e:
      raise RuntimeError(
          f'Post: the page at port {self._port} of this machine does not answer '
          f'({e!r}). Workers must run on the machine that serves it.') from e
    if status != 204:
      raise RuntimeError(f'Post: the page refuses a message ({reason})')
    yield element

  def _send(self, body):
    # Not urllib.request, which may ask a proxy.
    connection = http.client.HTTPConnection(
        '127.0.0.1', self._port, timeout=_TIMEOUT_SECS)
    try:
      connection.request(
          'POST', '/messages', body, {'Content-Type': 'application/json'})
      response = connection.getresponse()
      return response.status, response.read().decode().strip()
    finally:
      connection.close()


def start_message(element: tuple[int, Any]) -> dict[str, Any]:
  """Says that the model is handed a prompt."""
  return {'prompt': element[0], 'start': True}


def chunk_message(element: tuple[int, Chunk]) -> dict[str, Any]:
  prompt, chunk = element
  return {
      'prompt': prompt,
      'index': chunk.index,
      'text': chunk.text,
      'tokens': len(chunk.token_ids),
      'finish_reason': chunk.finish_reason,
      'error': chunk.error and chunk.error[:_MOST_ERROR],
  }


def result_message(element: tuple[int, PredictionResult]) -> dict[str, Any]:
  prompt, result = element
  generation = result.inference
  return {
      'prompt': prompt,
      'index': 0,
      'text': generation.text,
      'tokens': len(generation.token_ids),
      'finish_reason': generation.finish_reason,
      'error': None,
  }
