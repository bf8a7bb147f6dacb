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

"""A small OpenAI-compatible server on the loopback, that fails as it is told.

    with FakeServer() as server:
      server.script('second', Reply(status=500), Reply(cut_at_byte=100))
      ...  # POST {server.base_url}/completions

The first two calls whose prompt holds 'second' fail so; all others are answered
well, with the texts of testing_language. It answers as vLLM does: completions
and chats, as streams of one event a token; token ids, /tokenize and
/detokenize.
"""

import asyncio
import codecs
import dataclasses
import json
import threading
from collections.abc import Mapping
from typing import Any

from apache_beam.testing.inference import language as testing_language


@dataclasses.dataclass(frozen=True)
class Reply:
  """How a call is answered; by default as it should be.

  Args:
    status, headers, body: of the answer. With a body, that is all of it.
    at_token: when so many tokens were sent,
    then: this follows: bytes, 'end' (the stream ends in order), 'cut' (the
      connection breaks), 'hang' (nothing more comes), a float (nothing comes
      for so many seconds), or several of them.
    cut_before_usage: the connection breaks after the finish reason.
    cut_at_byte: the connection breaks when so many bytes were sent, with those
      of the head.
    write_bytes: so many are written at once.
    tokens_per_event: one event holds so many.
    token_secs: the time that a token takes.
  """
  status: int = 200
  headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
  body: bytes | None = None
  at_token: int | None = None
  then: bytes | str | float | tuple[bytes | str | float, ...] = 'end'
  cut_before_usage: bool = False
  cut_at_byte: int | None = None
  write_bytes: int | None = None
  tokens_per_event: int = 1
  token_secs: float = 0.0


class FakeServer:
  """Serves on 127.0.0.1, from a thread, until it is stopped.

  Args:
    reply: for calls without a script.
    owned_by: what the list of models says; 'vllm' and 'sglang' make it one.
    ssl_context: to serve https.

  Attributes:
    calls: the bodies of all calls, in the order of their arrival.
    headers: their headers.
    tokens: how many were made, for all calls.
    cancelled: calls whose client left before the end.
    connections: how many were made.
    most_at_once: calls that were answered at the same time.
    failing: the status by path, of those that are not answered well.
  """
  def __init__(
      self, reply: Reply = Reply(), owned_by: str = 'test', ssl_context=None):
    self.reply = reply
    self._owned_by = owned_by
    self._ssl = ssl_context
    self._scripts: list[tuple[str, list[Reply]]] = []
    self.calls: list[dict[str, Any]] = []
    self.headers: list[dict[str, str]] = []
    self.tokens = 0
    self.cancelled = 0
    self.connections = 0
    self.most_at_once = self._at_once = 0
    self.failing: dict[str, int] = {}
    self.port = 0
    self._thread: threading.Thread | None = None

  @property
  def base_url(self) -> str:
    return f'http{"s" if self._ssl else ""}://127.0.0.1:{self.port}/v1'

  def script(self, prompt_part: str, *replies: Reply) -> None:
    """Answers the next calls whose prompt holds a text so, in order."""
    self._scripts.append((prompt_part, list(replies)))

  def clear_scripts(self) -> None:
    """Forgets the replies that no call took."""
    self._scripts.clear()

  def start(self) -> 'FakeServer':
    """Starts; again on the same port."""
    started = threading.Event()
    self._thread = threading.Thread(
        target=lambda: asyncio.run(self._serve(started)), daemon=True)
    self._thread.start()
    if not started.wait(30):
      raise RuntimeError('The server did not start.')
    return self

  def stop(self) -> None:
    """Breaks all connections, as the death of a process does."""
    self._loop.call_soon_threadsafe(self._stopped.set)
    self._thread.join(30)

  def __enter__(self):
    return self.start()

  def __exit__(self, *unused_error):
    self.stop()

  async def _serve(self, started: threading.Event) -> None:
    self._loop = asyncio.get_running_loop()
    self._stopped = asyncio.Event()
    self._writers: set[asyncio.StreamWriter] = set()
    server = await asyncio.start_server(
        self._connection, '127.0.0.1', self.port, ssl=self._ssl, backlog=512)
    self.port = server.sockets[0].getsockname()[1]
    started.set()
    await self._stopped.wait()
    server.close()
    for writer in self._writers:
      writer.transport.abort()

  async def _connection(self, reader, writer) -> None:
    self._writers.add(writer)
    self.connections += 1
    try:
      while True:
        head = (await reader.readuntil(b'\r\n\r\n')).decode().split('\r\n')
        headers = dict(line.lower().split(': ', 1) for line in head[1:] if line)
        size = int(headers.get('content-length', 0))
        body = json.loads(await reader.readexactly(size) or b'{}')
        await self._answer(head[0].split()[1], headers, body, reader, writer)
    except (ConnectionError, asyncio.IncompleteReadError, _Cut):
      pass
    finally:
      self._writers.discard(writer)
      writer.transport.abort()

  async def _answer(self, path, headers, body, reader, writer) -> None:
    answers = {
        '/v1/models': lambda: {
            'object': 'list', 'data': [{
                'id': 'test', 'object': 'model', 'created': 0, 'owned_by': self.
                _owned_by
            }]
        },
        '/tokenize': lambda: {
            'tokens': testing_language.encode(body['prompt'])
        },
        '/detokenize': lambda: {
            'prompt': testing_language.decode(body['tokens']).decode(
                errors='replace')
        },
    }
    if path in self.failing:
      reply = Reply(self.failing[path])
      await _Wire(reader, writer, reply).whole(b'{"detail": "as told"}')
      return
    if path in answers:
      wire = _Wire(reader, writer, Reply())
      await wire.whole(json.dumps(answers[path]()).encode())
      return
    self.calls.append(body)
    self.headers.append(headers)
    reply = self._reply_for(_context(body).decode(errors='replace'))
    wire = _Wire(reader, writer, reply)
    if reply.body is not None or reply.status != 200:
      await wire.whole(reply.body or b'{"error": {"message": "as told"}}')
      return
    await wire.head()
    self._at_once += 1
    self.most_at_once = max(self.most_at_once, self._at_once)
    try:
      await self._stream(path, body, reply, wire)
    except ConnectionError:
      self.cancelled += 1
      raise
    finally:
      self._at_once -= 1
    await wire.end()

  def _reply_for(self, prompt: str) -> Reply:
    for part, replies in self._scripts:
      if part in prompt and replies:
        return replies.pop(0)
    return self.reply

  async def _stream(self, path, body, reply, wire) -> None:
    limit = body.get('max_tokens', body.get('max_completion_tokens', 10**9))
    options = body.get('stream_options') or {}
    context = _context(body)
    decoder = codecs.getincrementaldecoder('utf-8')(errors='replace')
    is_half = testing_language.ends_amid_character(context)
    tokens, text, finish = [], '', None
    made = 0
    while finish is None:
      if made == reply.at_token:
        await self._then(reply.then, wire)
        return
      token = testing_language.next_token(context)
      await self._take_time(reply, wire)
      if token == testing_language.END:
        finish = 'stop'
      else:
        made += 1
        self.tokens += 1
        piece = testing_language.decode([token])
        context += piece
        tokens.append(token)
        # What completes a character of the prompt is not sent, as in vLLM.
        if not (made == 1 and is_half):
          text += decoder.decode(piece)
        if made >= limit:
          finish = 'length'
      if finish or len(tokens) >= reply.tokens_per_event:
        event = _event(path, body, text, tokens, finish)
        if options.get('continuous_usage_stats'):
          event['usage'] = _usage(body, made)
        await wire.event(event)
        tokens, text = [], ''
    if reply.cut_before_usage:
      raise _Cut()
    if options.get('include_usage'):
      await wire.event({'choices': [], 'usage': _usage(body, made)})
    await wire.chunk(b'data: [DONE]\n\n')

  async def _take_time(self, reply, wire) -> None:
    await asyncio.sleep(reply.token_secs)
    if wire.is_left():
      raise ConnectionError('the client left')

  async def _then(self, then, wire) -> None:
    if isinstance(then, tuple):
      for one in then:
        await self._then(one, wire)
      return
    if isinstance(then, float):
      await asyncio.sleep(then)
      return
    if then == 'cut':
      raise _Cut()
    if then == 'hang':
      while True:
        await asyncio.sleep(0.01)
        if wire.is_left():
          raise ConnectionError('the client left')
    if then and then != 'end':
      await wire.chunk(then)


class _Cut(Exception):
  pass


class _Wire:
  """Writes an answer, up to the byte at which it breaks."""
  def __init__(self, reader, writer, reply: Reply):
    self._reader = reader
    self._writer = writer
    self._reply = reply
    self._sent = 0

  def is_left(self) -> bool:
    return self._reader.at_eof() or self._writer.is_closing()

  async def whole(self, body: bytes) -> None:
    await self._head(f'content-length: {len(body)}', 'application/json')
    await self._write(body)

  async def head(self) -> None:
    await self._head('transfer-encoding: chunked', 'text/event-stream')

  async def event(self, data: dict[str, Any]) -> None:
    text = json.dumps(data, ensure_ascii=False)
    await self.chunk(b'data: ' + text.encode() + b'\n\n')

  async def chunk(self, data: bytes) -> None:
    await self._write(b'%x\r\n%s\r\n' % (len(data), data))

  async def end(self) -> None:
    await self._write(b'0\r\n\r\n')

  async def _head(self, size: str, content_type: str) -> None:
    headers = {'content-type': content_type, **self._reply.headers}
    lines = [f'HTTP/1.1 {self._reply.status} As told', size]
    lines += [f'{name}: {value}' for name, value in headers.items()]
    await self._write('\r\n'.join([*lines, '', '']).encode())

  async def _write(self, data: bytes) -> None:
    cut = self._reply.cut_at_byte
    is_cut = cut is not None and self._sent + len(data) >= cut
    if is_cut:
      data = data[:cut - self._sent]
    self._sent += len(data)
    step = self._reply.write_bytes or len(data) or 1
    for start in range(0, len(data), step):
      self._writer.write(data[start:start + step])
      await self._writer.drain()
      if step < len(data):
        # Lets the other side read it by itself.
        await asyncio.sleep(0)
    if is_cut:
      # What was written arrives, and then nothing.
      self._writer.close()
      await self._writer.wait_closed()
      raise _Cut()


def _context(body: Mapping[str, Any]) -> bytes:
  if 'messages' in body:
    return testing_language.render(
        body['messages'], body.get('add_generation_prompt', True)).encode()
  prompt = body['prompt']
  if isinstance(prompt, str):
    return prompt.encode()
  return testing_language.decode(prompt)


def _usage(body, made) -> dict[str, int]:
  return {'prompt_tokens': len(_context(body)), 'completion_tokens': made}


def _event(path, body, text, tokens, finish) -> dict[str, Any]:
  choice: dict[str, Any] = {'index': 0, 'finish_reason': finish}
  if path.endswith('/chat/completions'):
    choice['delta'] = {'content': text}
  else:
    choice['text'] = text
  if body.get('return_token_ids'):
    choice['token_ids'] = tokens
  return {'choices': [choice]}
