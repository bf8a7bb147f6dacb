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

"""Calls of an OpenAI-compatible server, bounded in size and in time."""

import dataclasses
import json
import ssl
import sys
import time
from collections.abc import AsyncGenerator
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import openai

from apache_beam.ml.inference.iterative import openai_protocol
from apache_beam.ml.inference.iterative.backoff import retry_after_secs
from apache_beam.ml.inference.iterative.openai_protocol import CallFailed
from apache_beam.ml.inference.iterative.openai_protocol import Event
from apache_beam.ml.inference.iterative.server_sent_events import EventReader
from apache_beam.ml.inference.iterative.server_sent_events import EventTooLarge

__all__ = ['OpenAIClient', 'ServerLimits']

# httpx2, or httpx for an older openai.
_http = sys.modules[
    openai.DefaultAsyncHttpxClient.__mro__[-2].__module__.partition('.')[0]]


@dataclasses.dataclass(frozen=True)
class ServerLimits:
  """What a server may take and send.

  Args:
    connect_timeout_secs: for a connection.
    read_timeout_secs: how long it may be silent: before its answer, and
      between two pieces of it.
    max_event_bytes: of one event.
    max_body_bytes: of one answer.
  """
  connect_timeout_secs: float = 10.0
  read_timeout_secs: float = 300.0
  max_event_bytes: int = 1 << 20
  max_body_bytes: int = 1 << 26

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(
            f'ServerLimits({field.name}={value!r}): must be a number.')
      if not value > 0:
        raise ValueError(
            f'ServerLimits({field.name}={value!r}): must be positive.')


class _BodyTooLarge(Exception):
  pass


class OpenAIClient:
  """One client and connection pool; its methods raise CallFailed alone.

  Certificates are verified always, by what httpx and SSL_CERT_FILE trust.

  Args:
    base_url: with its /v1.
    model: sent with each call.
    api_key: or None, for servers that want none.
    key_name: of the environment variable that it comes from, for messages.
  """
  def __init__(
      self,
      base_url: str,
      model: str,
      api_key: str | None,
      key_name: str | None,
      limits: ServerLimits):
    self._model = model
    self._key_name = key_name
    # What no message may show.
    self._secret = api_key
    self._limits = limits
    self._root = base_url.rstrip('/').removesuffix('/v1')
    self._client = openai.AsyncOpenAI(
        base_url=base_url,
        # The client wants one; so does Beam's vLLM handler send this.
        api_key=api_key or 'EMPTY',
        # One place retries: the session.
        max_retries=0,
        default_headers={'Accept-Encoding': 'identity'},
        http_client=openai.DefaultAsyncHttpxClient(
            # A key is for the server that it was given for.
            follow_redirects=False,
            timeout=openai.Timeout(
                limits.read_timeout_secs,
                connect=limits.connect_timeout_secs,
                pool=None),
            limits=_http.Limits(
                max_connections=None, max_keepalive_connections=256),
            event_hooks={'response': [self._bound]}))

  async def close(self) -> None:
    await self._client.close()

  async def stream(
      self, endpoint: str,
      body: Mapping[str, Any]) -> AsyncGenerator[Event | None, None]:
    """Generates; None stands for the mark at the end of a stream."""
    body = dict(body)
    if endpoint == 'completions':
      create, name = self._client.completions, 'prompt'
    else:
      create, name = self._client.chat.completions, 'messages'
    call = create.with_streaming_response.create(
        model=self._model,
        stream=True,
        extra_body=body,
        **{name: body.pop(name)})
    try:
      async with call as response:
        if 'json' in response.headers.get('content-type', ''):
          # An error, or the whole answer of a server that does not stream.
          yield openai_protocol.read_event(await response.read())
          return
        reader = EventReader(self._limits.max_event_bytes)
        async for received in response.iter_bytes():
          for data in reader.feed(received):
            if data.strip() == b'[DONE]':
              yield None
            else:
              yield openai_protocol.read_event(data)
    except Exception as e:
      raise self._failure(e) from None

  async def serves_by_vllm(self) -> bool:
    """Whether the server says so in its list of models.

    Raises:
      CallFailed: if it may say it later.
    """
    try:
      models = await self._client.models.list(
          timeout=self._limits.connect_timeout_secs)
      return any(model.owned_by == 'vllm' for model in models.data)
    except Exception as e:  # pylint: disable=broad-except
      failure = self._failure(e)
      if failure.is_retriable:
        raise failure from None
      # Many servers have no such list; calls will tell what is wrong.
      return False

  async def tokenize(self, prompt: str) -> tuple[int, ...]:
    """Asks vLLM for the token ids of a prompt."""
    answer = await self._post('/tokenize', {'prompt': prompt})
    return tuple(answer['tokens'])

  async def detokenize(self, token_ids: Iterable[int]) -> str:
    answer = await self._post('/detokenize', {'tokens': list(token_ids)})
    return answer['prompt']

  async def _post(self, path: str, body: Mapping[str, Any]) -> Mapping:
    try:
      return await self._client.post(
          self._root + path,
          body={
              'model': self._model, **body
          },
          cast_to=object)
    except Exception as e:
      raise self._failure(e) from None

  async def _bound(self, response) -> None:
    response.stream = _BoundedStream(
        response.stream, self._limits.max_body_bytes)

  def _failure(self, error: Exception) -> CallFailed:
    """What an exception of the client means."""
    if isinstance(error, CallFailed):
      return CallFailed(
          error.kind,
          self._hide(error.message),
          error.is_retriable,
          error.retry_after)
    if isinstance(error, openai.APIStatusError):
      headers = error.response.headers
      return openai_protocol.failure_of_status(
          error.status_code,
          self._hide(error.message),
          error.code,
          retry_after_secs(headers.get('retry-after'), time.time()),
          self._key_name)
    if isinstance(error, EventTooLarge):
      return CallFailed('malformed', str(error))
    if isinstance(error, _BodyTooLarge):
      return CallFailed(
          'malformed',
          f'the answer exceeds {self._limits.max_body_bytes} bytes')
    if isinstance(error, json.JSONDecodeError):
      return CallFailed('malformed', 'the server sent no JSON')
    if isinstance(error, (openai.APITimeoutError, _http.TimeoutException)):
      return CallFailed(
          'timeout',
          'the server did not take the connection within '
          f'{self._limits.connect_timeout_secs} s, or was silent for '
          f'{self._limits.read_timeout_secs} s',
          True)
    if isinstance(error, (openai.APIConnectionError, _http.RequestError)):
      cause = error.__cause__ or error
      return CallFailed(
          'connection',
          f'{type(cause).__name__}, {self._hide(str(cause))}'[:500],
          not _is_of_certificate(error))
    return CallFailed(
        'engine', f'{type(error).__name__}, {self._hide(str(error))}'[:500])

  def _hide(self, text: str) -> str:
    return text.replace(self._secret, '***') if self._secret else text


class _BoundedStream(_http.AsyncByteStream):
  def __init__(self, stream, limit: int):
    self._stream = stream
    self._limit = limit

  async def __aiter__(self):
    size = 0
    async for part in self._stream:
      size += len(part)
      if size > self._limit:
        raise _BodyTooLarge()
      yield part

  async def aclose(self):
    await self._stream.aclose()


def _is_of_certificate(error: BaseException | None) -> bool:
  while error is not None:
    if isinstance(error, ssl.SSLCertVerificationError):
      return True
    error = error.__cause__ or error.__context__
  return False
