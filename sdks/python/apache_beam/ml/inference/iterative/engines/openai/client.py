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

"""Calls of an OpenAI-compatible server, bounded in size and in time.

By httpx alone: OpenAI's own client sends what it finds in the environment, and
hides the words of a refusal.
"""

import dataclasses
import importlib
import importlib.util
import json
import ssl
import time
from collections.abc import AsyncGenerator
from collections.abc import AsyncIterator
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from apache_beam.ml.inference.iterative.engines.openai import protocol as openai_protocol
from apache_beam.ml.inference.iterative.engines.openai.api_keys import hide_keys
from apache_beam.ml.inference.iterative.engines.openai.backoff import retry_after_secs
from apache_beam.ml.inference.iterative.engines.openai.failures import CallFailed
from apache_beam.ml.inference.iterative.engines.openai.failures import failure_of
from apache_beam.ml.inference.iterative.engines.openai.protocol import Event
from apache_beam.ml.inference.iterative.engines.openai.server_sent_events import DONE
from apache_beam.ml.inference.iterative.engines.openai.server_sent_events import EventReader
from apache_beam.ml.inference.iterative.engines.openai.server_sent_events import EventTooLarge

# OpenAI's client brings one of them; their names are the same.
_http: Any = importlib.import_module(
    'httpx2' if importlib.util.find_spec('httpx2') else 'httpx')
_PATHS = {'completions': '/completions', 'chat': '/chat/completions'}
# Of an error that is shown.
_MAX_MESSAGE = 500


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


class OpenAIClient:
  """One client and connection pool; its methods raise CallFailed alone.

  Certificates are verified always, by what httpx and SSL_CERT_FILE trust. Of
  the environment, only that and the proxies are used.

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
    self._url = base_url.rstrip('/')
    headers = {'Accept-Encoding': 'identity', 'User-Agent': 'apache-beam'}
    if api_key:
      headers['Authorization'] = f'Bearer {api_key}'
    self._client = _http.AsyncClient(
        headers=headers,
        # A key is for the server that it was given for.
        follow_redirects=False,
        timeout=_http.Timeout(
            limits.read_timeout_secs,
            connect=limits.connect_timeout_secs,
            pool=None),
        limits=_http.Limits(
            max_connections=None, max_keepalive_connections=256))

  async def close(self) -> None:
    await self._client.aclose()

  async def stream(self, endpoint: str,
                   body: Mapping[str, Any]) -> AsyncGenerator[Event, None]:
    """Generates; an event that says nothing stands for a sign of life."""
    body = {'model': self._model, 'stream': True, **body}
    url = self._url + _PATHS[endpoint]
    reader, broken = EventReader(self._limits.max_event_bytes), None
    try:
      async with self._client.stream('POST', url, json=body) as response:
        try:
          async for received in self._receive(response):
            events = reader.feed(received)
            for name, data in events:
              yield self._read(data, name)
            if not events:
              yield Event()
        except _http.RequestError as e:
          broken = e
        # What broke off may have been complete but for an empty line.
        rest = [(self._read(data, name), data) for name, data in reader.end()
                if broken is None or not isinstance(data, bytes)]
        for event, _ in rest:
          yield event
        if rest and not reader.is_stream:
          if not any(event.has_choice for event, _ in rest):
            raise openai_protocol.no_completion(rest[0][1])
          if len(rest) == 1:
            yield Event(is_done=True, is_whole=True)
        if broken is not None:
          raise broken
    except Exception as e:
      raise self._failure(e) from None

  async def owner(self) -> str | None:
    """Who owns the model, as the server's list says: 'vllm' is one.

    Raises:
      CallFailed: if it may say it later.
    """
    try:
      models = await self._json('GET', self._url + '/models')
      return next((
          model.get('owned_by')
          for model in models['data'] if model.get('id') == self._model),
                  None)
    except CallFailed as e:
      # 500 is the list's own, such as that of transformers without a cache.
      if e.is_retriable and not e.message.startswith('500'):
        raise
    except (TypeError, LookupError, AttributeError):
      pass
    # Many servers have no such list; calls will tell what is wrong.
    return None

  async def tokenize(self, prompt: str) -> tuple[int, ...]:
    """Asks vLLM for the token ids of a prompt."""
    answer = await self._post('/tokenize', {'prompt': prompt})
    return tuple(answer['tokens'])

  async def detokenize(self, token_ids: Iterable[int]) -> str:
    answer = await self._post('/detokenize', {'tokens': list(token_ids)})
    return answer['prompt']

  async def _post(self, path: str, body: Mapping[str, Any]) -> Any:
    url = self._url.removesuffix('/v1') + path
    return await self._json('POST', url, json={'model': self._model, **body})

  async def _json(self, method: str, url: str, **kwargs) -> Any:
    try:
      async with self._client.stream(method, url, **kwargs) as response:
        return json.loads(
            b''.join([part async for part in self._receive(response)]))
    except Exception as e:
      raise self._failure(e) from None

  async def _receive(self, response) -> AsyncIterator[bytes]:
    """The body of a good answer.

    Raises:
      CallFailed: if it is none, or too large.
    """
    size, refused = 0, []
    try:
      async for part in response.aiter_bytes():
        size += len(part)
        if size > self._limits.max_body_bytes:
          raise CallFailed(
              'malformed',
              f'the answer exceeds {self._limits.max_body_bytes} bytes')
        if response.is_success:
          yield part
        else:
          refused.append(part)
    except _http.RequestError:
      # A refusal that breaks off is one.
      if response.is_success:
        raise
    if not response.is_success:
      raise self._refusal(response, b''.join(refused))

  def _refusal(self, response, body: bytes) -> CallFailed:
    # LiteLLM refuses in an event of a stream, with 500.
    reader = EventReader(len(body) + 1)
    read = (data for _, data in reader.feed(body) + reader.end())
    answer: Any = next((
        data for data in read
        if isinstance(data, (dict, list, str)) and data != DONE),
                       body)
    if response.is_redirect and response.headers.get('location'):
      # Without a user or a query, which may hold a key.
      url = response.request.url.join(response.headers['location'])
      path = url.path.rstrip('/')
      path = path.removesuffix('/completions').removesuffix('/chat')
      target = f'{url.scheme}://{url.netloc.decode()}{path}'
      answer = f'the server redirects to {target}; give that as base_url'
    failure = failure_of(
        answer,
        response.status_code,
        retry_after_secs(response.headers, time.time()),
        self._key_name)
    # OpenAI's and Anthropic's own word.
    if response.headers.get('x-should-retry') == 'false':
      failure.is_retriable = False
    return failure

  def _read(self, data: Any, name: str) -> Event:
    event = openai_protocol.read_event(data, name)
    if event.failed is not None:
      raise failure_of(event.failed, key_name=self._key_name)
    return event

  def _failure(self, error: Exception) -> CallFailed:
    """What an exception means, without a key."""
    kind, again, cause = 'engine', False, error.__cause__ or error
    message = f'{type(cause).__name__}, {cause}'
    after, named = None, ()
    if isinstance(error, CallFailed):
      kind, message, again = error.kind, error.message, error.is_retriable
      after, named = error.retry_after, error.named
    elif isinstance(error, EventTooLarge):
      kind, message = 'malformed', str(error)
    elif isinstance(error, json.JSONDecodeError):
      kind, message = 'malformed', 'the server sent no JSON'
    elif isinstance(error, _http.TimeoutException):
      kind, again = 'timeout', True
      message = (
          'the server did not take the connection within '
          f'{self._limits.connect_timeout_secs} s, or was silent for '
          f'{self._limits.read_timeout_secs} s')
    elif isinstance(error, _http.RequestError):
      kind, again = 'connection', not _is_of_certificate(error)
    message = hide_keys(message, self._secret)[:_MAX_MESSAGE]
    return CallFailed(kind, message, again, after, named)


def _is_of_certificate(error: BaseException | None) -> bool:
  while error is not None:
    if isinstance(error, ssl.SSLCertVerificationError):
      return True
    error = error.__cause__ or error.__context__
  return False
