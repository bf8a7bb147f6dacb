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

"""A session on an OpenAI-compatible server."""

import asyncio
import contextlib
import dataclasses
import random
import threading
from typing import Any

from apache_beam.ml.inference.iterative import openai_arguments
from apache_beam.ml.inference.iterative import openai_protocol
from apache_beam.ml.inference.iterative.backoff import Backoff
from apache_beam.ml.inference.iterative.mailboxes import BufferedSession
from apache_beam.ml.inference.iterative.openai_begun_text import BegunText
from apache_beam.ml.inference.iterative.openai_client import OpenAIClient
from apache_beam.ml.inference.iterative.openai_client import ServerLimits
from apache_beam.ml.inference.iterative.openai_protocol import CallFailed
from apache_beam.ml.inference.iterative.received_text import Piece
from apache_beam.ml.inference.iterative.received_text import ReceivedText
from apache_beam.ml.inference.iterative.session import Delta
from apache_beam.ml.inference.iterative.session import Request
from apache_beam.ml.inference.iterative.session import Transcript

__all__ = ['OpenAISession']

# For the usage, and then the end of the connection, after the last token.
_USAGE_TIMEOUT_SECS = 5.0
_DRAIN_TIMEOUT_SECS = 1.0


@dataclasses.dataclass(eq=False)
class _Call:
  """A request, and what was handed on for it."""
  request: Request
  transcript: Transcript
  limit: int | None
  texts: list[str] = dataclasses.field(default_factory=list)
  token_ids: list[int] = dataclasses.field(default_factory=list)
  tokens: int = 0
  prompt_ids: tuple[int, ...] = ()
  # Not told in a delta yet.
  retries: int = 0
  is_stopped: bool = False
  task: asyncio.Task | None = None

  def __post_init__(self):
    self.texts.append(self.transcript.text)
    self.token_ids.extend(self.transcript.token_ids)
    self.tokens = self.transcript.tokens


class OpenAISession(BufferedSession):
  """Generates on an OpenAI-compatible server.

  One thread with an event loop, one connection pool, a task for each request.
  A call that fails is made again after a back-off, from what was handed on.

  Args:
    base_url: with its /v1, ``http://`` or ``https://``.
    model: as the server calls it.
    endpoint: 'completions' or 'chat'.
    api_key: or None, for servers that want none.
    key_name: of the environment variable that it comes from, for messages.
    resumes: as Session.resumes. None: found. Completions can be gone on from by
      text on any server, and by token ids on one that says it is vLLM; chats by
      text on vLLM, else not.
    limits, backoff: see there.
    sleep: for the back-off.
    rng: for its jitter.

  Raises:
    RuntimeError: if ``resumes`` is to be found and the server cannot be reached.
  """
  def __init__(
      self,
      base_url: str,
      model: str,
      endpoint: str = 'completions',
      api_key: str | None = None,
      key_name: str | None = None,
      resumes: str | None = None,
      limits: ServerLimits = ServerLimits(),
      backoff: Backoff = Backoff(),
      sleep=asyncio.sleep,
      rng: random.Random | None = None):
    super().__init__()
    self._endpoint = endpoint
    self._backoff = backoff
    self._sleep = sleep
    self._rng = rng or random.Random()
    self._calls: dict[str, _Call] = {}
    # Nothing is pushed for a call once it is stopped: its id may be in use
    # again.
    self._pushing = threading.Lock()
    self._client = OpenAIClient(base_url, model, api_key, key_name, limits)
    self._loop = asyncio.new_event_loop()
    self._thread = threading.Thread(
        target=self._loop.run_forever, name='openai-session', daemon=True)
    self._thread.start()
    self._wants_token_ids = resumes == 'exact'
    if resumes is None:
      try:
        self._wants_token_ids = asyncio.run_coroutine_threadsafe(
            self._serves_by_vllm(), self._loop).result()
      except CallFailed as e:
        self.close()
        raise RuntimeError(f'{base_url} does not answer: {e}') from None
      levels = ('none', 'text') if endpoint == 'chat' else ('text', 'exact')
      resumes = levels[self._wants_token_ids]
    self.resumes = resumes

  async def _serves_by_vllm(self):
    """Waits for a server that is being started, as calls do."""
    failures = 0
    while True:
      try:
        return await self._client.serves_by_vllm()
      except CallFailed as e:
        failures += 1
        wait = self._wait_secs(failures, e)
        if wait is None and e.kind in ('connection', 'timeout'):
          raise
        if wait is None:
          # It answers, so that calls will tell what is wrong.
          return False
        await self._sleep(wait)

  @property
  def is_alive(self):
    return super().is_alive and self._thread.is_alive()

  def close(self):
    was_open = super().is_alive
    super().close()
    if not was_open:
      return
    asyncio.run_coroutine_threadsafe(self._shut_down(),
                                     self._loop).result(timeout=30)
    self._loop.call_soon_threadsafe(self._loop.stop)
    self._thread.join(timeout=30)
    self._loop.close()

  async def _shut_down(self):
    tasks = [call.task for call in self._calls.values() if call.task]
    for task in tasks:
      task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await self._client.close()

  def _start(self, request, resume_from):
    openai_arguments.check_prompt(self._endpoint, request.prompt)
    try:
      openai_arguments.check_args(self._endpoint, request.args)
    except TypeError as e:
      raise ValueError(str(e)) from None
    limit = openai_arguments.token_limit(self._endpoint, request.args)
    call = _Call(request, resume_from, limit)
    self._calls[request.request_id] = call

    def launch():
      if not call.is_stopped:
        call.task = self._loop.create_task(self._run(call))

    self._call_soon(launch)

  def _stop(self, request_id):
    with self._pushing:
      call = self._calls.pop(request_id, None)
      if call is None:
        return
      call.is_stopped = True

    def cancel():
      if call.task is not None:
        call.task.cancel()

    self._call_soon(cancel)

  def _call_soon(self, function):
    # Closing has ended all requests, so a closed loop has nothing to do.
    with contextlib.suppress(RuntimeError):
      self._loop.call_soon_threadsafe(function)

  async def _run(self, call: _Call) -> None:
    """Makes calls until one ends well, or may not be made again."""
    failures = 0
    while call.limit is None or call.tokens < call.limit:
      tokens = call.tokens
      try:
        await self._generate(call)
        return
      except CallFailed as e:
        failure = e
      except Exception as e:  # pylint: disable=broad-except
        # The request must have an end. Text of unknown errors may hold what
        # nobody should read.
        failure = CallFailed('engine', f'{type(e).__name__} in the session')
      failures = 1 if call.tokens > tokens else failures + 1
      wait = None
      if failure.is_retriable:
        wait = self._wait_secs(failures, failure)
      if wait is None or call.tokens and self.resumes == 'none':
        self._give_up(call, failure)
        return
      call.retries += 1
      await self._sleep(wait)
    self._end(call, Delta(finish_reason='length'))

  def _wait_secs(self, failures, failure):
    return self._backoff.wait_secs(
        failures, self._rng.random(), failure.retry_after)

  def _give_up(self, call: _Call, failure: CallFailed) -> None:
    error = str(failure)
    if failure.kind == 'connection' and call.tokens and self.resumes == 'none':
      error = (
          f'lost: the connection broke after {call.tokens} tokens, and the '
          f'server cannot go on from there ({failure.message})')
    self._end(
        call,
        Delta(
            finish_reason='error', error=error, is_lost=self._is_lost(failure)))

  def _is_lost(self, unused_failure: CallFailed) -> bool:
    """Whether another session may go on; retries are used up."""
    return False

  async def _generate(self, call: _Call) -> None:
    """One call, from what was handed on, to its end."""
    start = call.tokens
    body, begun = await self._body(call)
    received = ReceivedText(openai_arguments.stop_strings(call.request.args))
    finish = usage = timeout = None
    async with contextlib.aclosing(self._client.stream(self._endpoint,
                                                       body)) as events:
      while True:
        try:
          event = await asyncio.wait_for(anext(events), timeout)
        except StopAsyncIteration:
          event = None
        except (CallFailed, asyncio.TimeoutError):
          if finish is None:
            raise
          # All of the text is there.
          event = None
        if event is None:
          break
        call.prompt_ids = call.prompt_ids or event.prompt_ids
        if event.completion_tokens is not None:
          usage = event
        text = event.text
        if begun is not None:
          text = await begun.complete(
              text, event.token_ids, bool(event.finish_reason))
        self._hand_on(call, received.add(text, event.token_ids, event.tokens))
        if received.is_stopped:
          # Leaving the stream tells the server to stop.
          finish = 'stop'
          break
        if event.finish_reason:
          finish, timeout = event.finish_reason, _USAGE_TIMEOUT_SECS
      if finish is None:
        raise CallFailed(
            'truncated', 'the stream ended without a finish reason', True)
      self._hand_on(call, received.end())
      last = Delta(finish_reason=finish)
      if usage is not None:
        last = Delta(
            tokens=max(0, usage.completion_tokens - received.tokens),
            finish_reason=finish,
            prompt_tokens=usage.prompt_tokens and usage.prompt_tokens - start)
      self._end(call, last)
      if not received.is_stopped:
        # A connection that is read to its end can be used again.
        with contextlib.suppress(CallFailed,
                                 StopAsyncIteration,
                                 asyncio.TimeoutError):
          await asyncio.wait_for(anext(events), _DRAIN_TIMEOUT_SECS)

  async def _body(self, call: _Call) -> tuple[dict[str, Any], BegunText | None]:
    """The body of the next call; with text that it has to complete, if any."""
    request, prompt = call.request, call.request.prompt
    begun = None
    transcript = Transcript(''.join(call.texts), (), call.tokens)
    knows_ids = len(call.token_ids) == call.tokens
    if call.tokens and self.resumes == 'exact' and knows_ids:
      if isinstance(prompt, str):
        call.prompt_ids = (
            call.prompt_ids or await self._client.tokenize(prompt))
        prompt = call.prompt_ids
      transcript = dataclasses.replace(
          transcript, token_ids=tuple(call.token_ids))
      begun = BegunText(
          transcript.text, transcript.token_ids, self._client.detokenize)
      await begun.look()
    elif call.tokens and self._endpoint == 'completions' and not isinstance(
        prompt, str):
      raise CallFailed(
          'lost', 'a prompt of token ids cannot be gone on from by text')
    body = openai_protocol.request_body(
        self._endpoint,
        prompt,
        request.args,
        transcript,
        request.seed,
        self._wants_token_ids)
    return body, begun

  def _hand_on(self, call: _Call, piece: Piece) -> None:
    if piece.tokens or piece.text:
      call.texts.append(piece.text)
      call.token_ids.extend(piece.token_ids)
      call.tokens += piece.tokens
      self._push_for(
          call, Delta(piece.text, piece.token_ids, tokens=piece.tokens))

  def _push_for(self, call: _Call, delta: Delta) -> None:
    with self._pushing:
      if not call.is_stopped:
        self._push(
            call.request.request_id,
            dataclasses.replace(delta, retries=call.retries))
        call.retries = 0

  def _end(self, call: _Call, last: Delta) -> None:
    self._push_for(call, last)
    with self._pushing:
      if self._calls.get(call.request.request_id) is call:
        del self._calls[call.request.request_id]
