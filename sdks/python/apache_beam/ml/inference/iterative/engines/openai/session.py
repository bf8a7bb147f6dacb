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
from collections.abc import Collection
from typing import Any

from apache_beam.ml.inference.iterative.engines.mailboxes import BufferedSession
from apache_beam.ml.inference.iterative.engines.openai import arguments as openai_arguments
from apache_beam.ml.inference.iterative.engines.openai import protocol as openai_protocol
from apache_beam.ml.inference.iterative.engines.openai.answer import Answer
from apache_beam.ml.inference.iterative.engines.openai.backoff import Backoff
from apache_beam.ml.inference.iterative.engines.openai.begun_text import BegunText
from apache_beam.ml.inference.iterative.engines.openai.client import OpenAIClient
from apache_beam.ml.inference.iterative.engines.openai.client import ServerLimits
from apache_beam.ml.inference.iterative.engines.openai.failures import CallFailed
from apache_beam.ml.inference.iterative.engines.openai.received_text import Piece
from apache_beam.ml.inference.iterative.session import Delta
from apache_beam.ml.inference.iterative.session import Request
from apache_beam.ml.inference.iterative.session import Transcript

# For the usage, and then the end of the connection, after the last token. Servers
# that give a reason with each event have more time: more text may follow.
_USAGE_TIMEOUT_SECS = 5.0
_MORE_TIMEOUT_SECS = 60.0
_DRAIN_TIMEOUT_SECS = 1.0
# llama-cpp-python: by default a call ends the one that is being answered, with
# the mark alone.
_ONE_BY_ONE = 'me'
_LEVELS = ('none', 'text', 'exact')
# By which field servers tell how many tokens an event has.
_COUNTS_BY = {'vllm': 'return_token_ids', 'sglang': 'continuous_usage_stats'}


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
  # Of the call that is under way.
  answer: Answer = dataclasses.field(default_factory=Answer)
  asked: frozenset[str] = frozenset()
  # What the server seems to refuse, of what it is asked for.
  refused: set[str] = dataclasses.field(default_factory=set)
  # Thoughts are in no transcript.
  has_thoughts: bool = False
  # Not each time after an empty stream, or where a server fails again: some
  # give their reason only without.
  streams: bool = True
  # Not told in a delta yet.
  retries: int = 0
  # Of the last attempt, and the tokens that there were then.
  failure: tuple[str, int] | None = None
  is_stopped: bool = False
  task: asyncio.Task | None = None

  def __post_init__(self):
    self.texts.append(self.transcript.text)
    self.token_ids.extend(self.transcript.token_ids)
    self.tokens = self.transcript.tokens

  def starts_anew(self) -> str | None:
    """Why what follows would not go with the text before."""
    if openai_arguments.is_constrained(self.request.args):
      return 'the grammar or the tools of extra_body would start anew'
    return 'the thoughts before them are lost' if self.has_thoughts else None


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
    # Fields beside the user's own, as long as the server takes them.
    self._asks = {'stream_options', 'seed'}
    self._needs = {'return_token_ids'} if resumes == 'exact' else set()
    # As long as it is not known, a text may end without a reason.
    self._gives_reasons = False
    # Whether text has followed one.
    self._goes_on_after_reasons = False
    # Calls that may be made at the same time; None: any number.
    self._turns: asyncio.Semaphore | None = None
    if resumes is None:
      try:
        owner = asyncio.run_coroutine_threadsafe(self._owner(),
                                                 self._loop).result()
      except CallFailed as e:
        self.close()
        raise RuntimeError(f'{base_url} does not answer: {e}') from None
      levels = ('none', 'text') if endpoint == 'chat' else ('text', 'exact')
      resumes = levels[owner == 'vllm']
      if owner in _COUNTS_BY:
        self._asks.add(_COUNTS_BY[owner])
      if owner == _ONE_BY_ONE:
        self._gives_reasons = True
        self._turns = asyncio.Semaphore(1)
    self.resumes = resumes

  async def _owner(self):
    """Waits for a server that is being started, as calls do."""
    failures = 0
    while True:
      try:
        return await self._client.owner()
      except CallFailed as e:
        failures += 1
        wait = self._wait_secs(failures, e)
        if wait is None and e.kind in ('connection', 'timeout'):
          raise
        if wait is None:
          # It answers, so that calls will tell what is wrong.
          return None
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

  def poll(self, request_id, timeout=0.0, ready=None):
    # Signs of life are for those who ask for them.
    return super().poll(
        request_id, timeout, ready or (lambda delta: not delta.is_empty))

  def last_failure(self, request_id):
    call = self._calls.get(request_id)
    if call is None or call.failure is None:
      return None
    failure, tokens = call.failure
    return failure if tokens == call.tokens else None

  def _start(self, request, resume_from):
    openai_arguments.check_prompt(self._endpoint, request.prompt)
    try:
      openai_arguments.check_args(self._endpoint, request.args)
    except TypeError as e:
      raise ValueError(str(e)) from None
    limit = openai_arguments.token_limit(self._endpoint, request.args)
    call = _Call(request, resume_from, limit)
    if call.tokens and (why := call.starts_anew()):
      self._fail(
          request.request_id,
          f'lost: the call broke after {call.tokens} tokens, and {why}')
      return
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
    failures, was_cut = 0, False
    while call.limit is None or call.tokens < call.limit:
      tokens = call.tokens
      try:
        async with self._turns or contextlib.nullcontext():
          is_done = await self._generate(call)
        if is_done:
          return
        call.streams = False
        continue
      except CallFailed as e:
        failure = e
      except Exception as e:  # pylint: disable=broad-except
        # The request must have an end. Text of unknown errors may hold what
        # nobody should read.
        failure = CallFailed('engine', f'{type(e).__name__} in the session')
      is_mute = failure.kind == 'truncated' or failures and failure.kind == 'server'
      call.streams = call.answer.has_choice or not is_mute or not call.streams
      if self._leaves_out(call, failure):
        continue
      failures = 1 if call.tokens > tokens else failures + 1
      wait = None
      # What ends so each time has no other end, maybe.
      is_cut = failure.kind == 'truncated' and call.answer.has_choice
      is_end, was_cut = is_cut and was_cut and not self._gives_reasons, is_cut
      if failure.is_retriable and not is_end:
        wait = self._wait_secs(failures, failure)
        if call.tokens and (why := call.starts_anew()):
          wait, failure = None, CallFailed(
              'lost',
              f'the call broke after {call.tokens} tokens, and {why} ({failure})')
      if wait is None or call.tokens and self.resumes == 'none':
        self._give_up(call, failure)
        return
      call.retries += 1
      call.failure = str(failure), call.tokens
      await self._sleep(wait)
    self._end(call, Delta(finish_reason='length'))

  def _leaves_out(self, call: _Call, failure: CallFailed) -> bool:
    """Whether a call may be made again without a field that the failure names.

    It may be there by chance: some servers repeat the body that they refuse.
    """
    named = [name for name in failure.named if name in call.asked]
    call.refused.update(named[:1])
    return bool(named)

  def _leave_out(self, refused: Collection[str]) -> None:
    """A call without these fields is answered, which failed with them."""
    self._asks -= set(refused)
    if 'return_token_ids' in refused:
      self.resumes = min(self.resumes, 'text', key=_LEVELS.index)

  def _wait_secs(self, failures, failure):
    return self._backoff.wait_secs(
        failures, self._rng.random(), failure.retry_after)

  def _give_up(self, call: _Call, failure: CallFailed) -> None:
    self._hand_on(call, call.answer.rest())
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

  async def _generate(self, call: _Call) -> bool:
    """One call, from what was handed on, to its end.

    Returns:
      False if there is nothing, which some servers send where they fail: the
      whole answer tells.
    """
    before = call.tokens
    call.answer = answer = Answer(
        openai_arguments.stop_strings(call.request.args), self._gives_reasons)
    body, begun = await self._body(call)
    until = None
    async with contextlib.aclosing(self._client.stream(self._endpoint,
                                                       body)) as events:
      while not answer.is_stopped:
        try:
          wait = None
          if answer.is_complete:
            wait = max(until - self._loop.time(), 0)
          event = await asyncio.wait_for(anext(events), wait)
        except StopAsyncIteration:
          break
        except (CallFailed, asyncio.TimeoutError):
          if not answer.is_complete:
            raise
          break
        event = answer.without_repeated(event)
        is_news = bool(event.text or event.thinks)
        self._goes_on_after_reasons |= is_news and answer.has_reason
        if event.has_choice:
          self._leave_out(call.refused)
        call.prompt_ids = call.prompt_ids or event.prompt_ids
        text = event.text
        if begun is not None:
          text = await begun.complete(
              text, event.token_ids, bool(event.finish_reason))
        self._hand_on(call, answer.add(event, text), is_news=True)
        call.has_thoughts |= answer.thinks
        if event.is_done:
          break
        if is_news or until is None or event.finish_reason:
          more = is_news and (
              self._goes_on_after_reasons or not answer.has_text)
          until = self._loop.time() + (
              _MORE_TIMEOUT_SECS if more else _USAGE_TIMEOUT_SECS)
      self._gives_reasons |= answer.has_reason
      last = answer.last(before, call.limit)
      if answer.is_empty and last.finish_reason == 'stop' and call.streams and (
          not before):
        return False
      self._end(call, last)
      if not answer.is_stopped:
        # A connection that is read to its end can be used again. Leaving it
        # before tells the server to stop.
        with contextlib.suppress(CallFailed,
                                 StopAsyncIteration,
                                 asyncio.TimeoutError):
          await asyncio.wait_for(anext(events), _DRAIN_TIMEOUT_SECS)
    return True

  async def _body(self, call: _Call) -> tuple[dict[str, Any], BegunText | None]:
    """The body of the next call; with text that it has to complete, if any."""
    request, prompt = call.request, call.request.prompt
    begun = None
    transcript = Transcript(''.join(call.texts), (), call.tokens)
    knows_ids = len(call.token_ids) == call.tokens
    if call.tokens and self.resumes == 'exact' and knows_ids:
      try:
        if isinstance(prompt, str):
          call.prompt_ids = (
              call.prompt_ids or await self._client.tokenize(prompt))
        begun = BegunText(
            transcript.text, call.token_ids, self._client.detokenize)
        await begun.look()
        prompt = call.prompt_ids or prompt
        transcript = dataclasses.replace(
            transcript, token_ids=tuple(call.token_ids))
      except CallFailed as e:
        # A gateway may not have what it takes, and text does without.
        begun = None
        if e.is_retriable or not isinstance(prompt, str):
          raise
    elif call.tokens and self._endpoint == 'completions' and not isinstance(
        prompt, str):
      raise CallFailed(
          'lost', 'a prompt of token ids cannot be gone on from by text')
    asks = self._asks - call.refused
    if not call.streams:
      asks.discard('stream_options')
    if request.seed is None or request.args.get('seed') is not None:
      asks.discard('seed')
    call.asked = frozenset(asks)
    body = openai_protocol.request_body(
        self._endpoint,
        prompt,
        request.args,
        transcript,
        request.seed,
        call.asked | self._needs)
    if not call.streams:
      body['stream'] = False
    return body, begun

  def _hand_on(self, call: _Call, piece: Piece, is_news: bool = False) -> None:
    """Hands text on; news without text show that the server is at work."""
    if piece.tokens or piece.text:
      call.texts.append(piece.text)
      call.token_ids.extend(piece.token_ids)
      call.tokens += piece.tokens
    if is_news or piece.tokens or piece.text:
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
