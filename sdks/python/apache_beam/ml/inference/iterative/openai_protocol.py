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

"""What OpenAI-compatible servers are sent, and what they answer.

Imports nothing from Beam but sessions. See
https://platform.openai.com/docs/api-reference/completions and
https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from apache_beam.ml.inference.iterative.openai_arguments import token_limit
from apache_beam.ml.inference.iterative.session import Transcript

__all__ = [
    'CallFailed',
    'Event',
    'failure_of_status',
    'read_event',
    'request_body',
]


class CallFailed(Exception):
  """A call that did not end well.

  Attributes:
    kind, message: as in Delta.error.
    is_retriable: whether the same call may succeed later.
    retry_after: how long the server wants to be left alone, in seconds.
  """
  def __init__(
      self,
      kind: str,
      message: str,
      is_retriable: bool = False,
      retry_after: float | None = None):
    super().__init__(f'{kind}: {message}')
    self.kind = kind
    self.message = message
    self.is_retriable = is_retriable
    self.retry_after = retry_after


@dataclasses.dataclass(frozen=True)
class Event:
  """What one event of a stream says.

  Attributes:
    text, token_ids: what was made.
    tokens: how many. Without ids an event is taken for one, also if its text
      is empty: a part of a character.
    finish_reason: 'stop' or 'length', if that was the last.
    prompt_tokens, completion_tokens: of this call, if it says so.
    prompt_ids: the prompt's token ids, if it says so.
  """
  text: str = ''
  token_ids: tuple[int, ...] = ()
  tokens: int = 0
  finish_reason: str | None = None
  prompt_tokens: int | None = None
  completion_tokens: int | None = None
  prompt_ids: tuple[int, ...] = ()


def request_body(
    endpoint: str,
    prompt: Any,
    args: Mapping[str, Any],
    transcript: Transcript,
    seed: int | None = None,
    wants_token_ids: bool = False) -> dict[str, Any]:
  """The body of a call, without the model, that goes on from a transcript.

  Stop strings are not sent: the session finds them itself, also one that began
  before a connection broke.

  Args:
    prompt: as openai_arguments.check_prompt takes it. Going on by token ids,
      those of the prompt; by text, a str or messages.
    transcript: with token ids only if it is to be gone on from by them.
    wants_token_ids: whether to ask for them, as vLLM allows.
  """
  body = {
      key: value
      for key, value in args.items()
      if value is not None and key not in ('extra_body', 'stop')
  }
  limit = token_limit(endpoint, args)
  if limit is not None:
    name = (
        'max_completion_tokens'
        if args.get('max_completion_tokens') is not None and
        args.get('max_tokens') is None else 'max_tokens')
    body[name] = limit - transcript.tokens
  if seed is not None:
    body.setdefault('seed', seed)
  body['stream_options'] = {'include_usage': True}
  if wants_token_ids:
    body['return_token_ids'] = True
  if endpoint == 'completions':
    if transcript.token_ids:
      prompt = [*prompt, *transcript.token_ids]
    elif transcript.text:
      prompt = prompt + transcript.text
    body['prompt'] = prompt
  else:
    if isinstance(prompt, str):
      prompt = [{'role': 'user', 'content': prompt}]
    body['messages'] = list(prompt)
    if transcript.text:
      body['messages'].append({'role': 'assistant', 'content': transcript.text})
      # vLLM's names.
      body['add_generation_prompt'] = False
      body['continue_final_message'] = True
  extra = dict(args.get('extra_body') or {})
  if extra.get('min_tokens'):
    # Servers count from the transcript's end.
    extra['min_tokens'] = max(0, extra['min_tokens'] - transcript.tokens)
  return {**body, **extra}


def read_event(data: bytes) -> Event:
  """Reads an event, or a whole answer that is no stream.

  Raises:
    CallFailed: if it is an error, or not what it should be.
  """
  try:
    event = json.loads(data)
    if not isinstance(event, dict):
      raise TypeError('not an object')
    if event.get('error'):
      raise _failure_of_error(event['error'])
    usage = event.get('usage') or {}
    choice = (event.get('choices') or [{}])[0]
    # A whole chat answer has a message, an event a delta.
    part = choice.get('delta') or choice.get('message') or {}
    text = choice.get('text', part.get('content')) or ''
    if not isinstance(text, str):
      raise TypeError('its text is no str')
    token_ids = tuple(choice.get('token_ids') or ())
    finish_reason = _finish_reason(choice.get('finish_reason'))
    # The first event of a chat says who speaks, the last may say nothing.
    is_token = text or choice and 'role' not in part and not finish_reason
    return Event(
        text,
        token_ids,
        len(token_ids) or int(bool(is_token)),
        finish_reason,
        usage.get('prompt_tokens'),
        usage.get('completion_tokens'),
        tuple(
            choice.get('prompt_token_ids') or event.get('prompt_token_ids') or
            ()))
  except (ValueError, TypeError, AttributeError, LookupError) as e:
    raise CallFailed(
        'malformed',
        f'the server sent {_shown(data)}, which is no event of a '
        f'completion ({type(e).__name__})') from None


def failure_of_status(
    status: int,
    message: str,
    code: Any,
    retry_after: float | None,
    key_name: str | None) -> CallFailed:
  """What an HTTP status other than 2xx means.

  Args:
    code: of the error in the body, if there is one.
    key_name: of the environment variable that holds the key.
  """
  if status in (401, 403):
    # The message of some servers holds a part of the key.
    held = (
        f'the key in the environment variable {key_name}'
        if key_name else 'a request without a key; name the environment '
        'variable that holds one with api_key_env')
    return CallFailed('server', f'{status}, the server refuses {held}')
  message = f'{status}, {message[:500]}'
  if status == 429:
    # OpenAI says so to an account without money.
    return CallFailed(
        'rate_limit', message, code != 'insufficient_quota', retry_after)
  if status == 408 or status >= 500:
    return CallFailed('server', message, True, retry_after)
  return CallFailed('invalid' if status >= 400 else 'server', message)


def _failure_of_error(error: Any) -> CallFailed:
  if not isinstance(error, dict):
    return CallFailed('server', str(error)[:500])
  code = error.get('code')
  message = str(error.get('message') or error)[:500]
  if isinstance(code, int) and code >= 400:
    return failure_of_status(code, message, error.get('type'), None, None)
  return CallFailed('server', message)


def _finish_reason(reason: str | None) -> str | None:
  if reason in (None, '', 'length'):
    return reason or None
  if reason in ('content_filter', 'abort', 'error'):
    # A text that lacks its end must not pass for a whole one.
    raise CallFailed('server', f'the server ended the text with {reason!r}')
  return 'stop'


def _shown(data: bytes) -> str:
  return repr(
      data[:80].decode(errors='replace')) + ('...' if len(data) > 80 else '')
