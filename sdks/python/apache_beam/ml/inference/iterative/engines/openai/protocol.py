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
import re
from collections.abc import Collection
from collections.abc import Mapping
from typing import Any

from apache_beam.ml.inference.iterative.engines.openai.arguments import token_limit
from apache_beam.ml.inference.iterative.engines.openai.failures import CallFailed
from apache_beam.ml.inference.iterative.engines.openai.failures import is_failure
from apache_beam.ml.inference.iterative.engines.openai.failures import words_of
from apache_beam.ml.inference.iterative.engines.openai.server_sent_events import DONE
from apache_beam.ml.inference.iterative.session import Transcript

# Finish reasons of servers, in one spelling; others are errors, so that a text
# that lacks its end does not pass for a whole one.
_WHOLE = frozenset((
    'stop',
    'stop_sequence',
    'stop_string',
    'stop_string_found',
    'stop_token',
    'eos',
    'eos_found',
    'eos_token',
    'end_of_text',
    'end_turn',
    'end',
    'complete',
    'completed',
    'done',
    'finished',
    'normal'))
_LENGTH = re.compile(
    'length|max_(.*_)?tokens?|token_limit|context_window|^limit$')
_TOOLS = frozenset(('tool_calls', 'tool_call', 'tool_use', 'function_call'))
# Parts of a content, or fields of a delta, that are the model's thoughts.
_THOUGHT = re.compile('(^|_)(reasoning|think|thought)|^signature$')
# Parts of a content that say something about its text.
_NOTE = re.compile('reference|citation|annotation|search_result|source')
# Names of events that say that the call has failed.
_FAILURE = re.compile('error|fail|exception|problem', re.I)
_NO_TEXT = ('audio', 'images', 'image')


@dataclasses.dataclass(frozen=True)
class Event:
  """What one event of a stream says; by default nothing.

  Attributes:
    text, token_ids: what was made.
    tokens: how many at least: one for each word, if there are no ids.
    refusal: text in which the model refuses.
    thinks: whether it holds thoughts, which are no part of the text.
    finish_reason: 'stop', 'length' or 'error', if that was the last.
    error: with 'error', why.
    failed: an answer of the server that says that the call has failed.
    has_choice: whether it is of a completion.
    is_message: whether its text is that of a message, not of a delta.
    is_done: whether it is the mark at the end of a stream,
    is_whole: or the end of an answer that is no stream.
    prompt_tokens, completion_tokens: of this call so far, if it says so.
    prompt_ids: the prompt's token ids, if it says so.
  """
  text: str = ''
  token_ids: tuple[int, ...] = ()
  tokens: int = 0
  refusal: str = ''
  thinks: bool = False
  finish_reason: str | None = None
  error: CallFailed | None = None
  failed: Any = None
  has_choice: bool = False
  is_message: bool = False
  is_done: bool = False
  is_whole: bool = False
  prompt_tokens: int | None = None
  completion_tokens: int | None = None
  prompt_ids: tuple[int, ...] = ()


def request_body(
    endpoint: str,
    prompt: Any,
    args: Mapping[str, Any],
    transcript: Transcript,
    seed: int | None = None,
    optional: Collection[str] = ('stream_options', 'seed')
) -> dict[str, Any]:
  """The body of a call, without the model, that goes on from a transcript.

  Stop strings are not sent: the session finds them itself, also one that began
  before a connection broke.

  Args:
    prompt: as openai_arguments.check_prompt takes it. Going on by token ids,
      those of the prompt; by text, a str or messages.
    transcript: with token ids only if it is to be gone on from by them.
    optional: those of OPTIONAL_FIELDS that the server is asked for.
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
  if seed is not None and 'seed' in optional:
    body.setdefault('seed', seed)
  if 'stream_options' in optional:
    body['stream_options'] = {'include_usage': True}
    if 'continuous_usage_stats' in optional:
      body['stream_options']['continuous_usage_stats'] = True
  if 'return_token_ids' in optional:
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


def read_event(data: Any, name: str = '') -> Event:
  """Reads the data of an event, or a whole answer that is no stream.

  Args:
    data, name: as EventReader gives them.

  Raises:
    CallFailed: if it is not what it should be, or holds what chunks cannot.
  """
  if data == DONE:
    return Event(is_done=True)
  if data in (None, '', b'', []):
    return Event()
  if _FAILURE.search(name):
    return Event(failed=data)
  if name not in ('', 'message') and not _is_meant(data):
    # Of what is not asked for, such as pings.
    return Event()
  if isinstance(data, Mapping) and is_failure(data):
    return Event(failed=data)
  if isinstance(data, list) and all(isinstance(x, Mapping) for x in data):
    # As Google's.
    return Event(failed=data)
  try:
    return _read(data)
  except (ValueError, TypeError, AttributeError, LookupError) as e:
    raise no_completion(data) from e


def no_completion(data: Any) -> CallFailed:
  """What it means that a server sent something else than was asked for."""
  text = words_of(data) if isinstance(data, bytes) else str(data)
  shown = repr(text[:80]) + ('...' if len(text) > 80 else '')
  return CallFailed(
      'malformed', f'the server sent {shown} without a completion in it')


def _is_meant(data: Any) -> bool:
  """Whether an event with a name is of the completion."""
  return isinstance(data, Mapping) and (
      'choices' in data or bool(data.get('usage')) or bool(data.get('error')))


def _read(event: Mapping[str, Any]) -> Event:
  choice = (event.get('choices') or [None])[0]
  prompt_tokens, completion_tokens = _usage(event, choice or {})
  if choice is None:
    return Event(
        prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
  failed = choice.get('error') or (event.get('x_groq') or {}).get('error')
  if failed:
    return Event(failed=failed)
  # A whole chat answer has a message, an event a delta.
  part = choice.get('delta') or choice.get('message') or {}
  tools = _tool_names(part.get('tool_calls') or part.get('function_call'))
  if tools:
    raise _no_text(f'a call of a tool ({tools})')
  for kind in _NO_TEXT:
    value = part.get(kind)
    if any(value.values()) if isinstance(value, Mapping) else value:
      raise _no_text(kind)
  text, refusal, thinks = _content(choice.get('text') or part.get('content'))
  token_ids = tuple(choice.get('token_ids') or ())
  finish_reason, error = _finish(choice.get('finish_reason'))
  return Event(
      text=text,
      token_ids=token_ids,
      tokens=len(token_ids) or (max(1, len(text.split())) if text else 0),
      refusal=refusal + (part.get('refusal') or ''),
      thinks=thinks or any(part[key] for key in part if _THOUGHT.search(key)),
      finish_reason=finish_reason,
      error=error,
      has_choice=True,
      is_message=not choice.get('delta') and bool(choice.get('message')),
      prompt_tokens=prompt_tokens,
      completion_tokens=completion_tokens,
      prompt_ids=tuple(
          choice.get('prompt_token_ids') or event.get('prompt_token_ids') or
          ()))


def _content(content: Any) -> tuple[str, str, bool]:
  """The text, the refusal and whether there are thoughts in a content."""
  text, refusal, thinks = '', '', False
  for part in content if isinstance(content, list) else [content or '']:
    if isinstance(part, str):
      part = {'type': 'text', 'text': part}
    kind = part.get('type', 'text')
    if kind in ('text', 'output_text', 'input_text'):
      words = part.get('text') or ''
      text += words['value'] if isinstance(words, Mapping) else words
    elif kind == 'refusal':
      refusal += part['refusal'] or ''
    elif _THOUGHT.search(kind):
      thinks = True
    elif not _NOTE.search(kind):
      raise _no_text(kind)
  return text, refusal, thinks


def _usage(event, choice) -> tuple[int | None, int | None]:
  """Tokens of the prompt and of the completion; Groq and Moonshot put them in
  places of their own."""
  groq = event.get('x_groq') or {}
  for usage in (event.get('usage'), choice.get('usage'), groq.get('usage')):
    if isinstance(usage, Mapping):
      return tuple(
          usage.get(name)
          if isinstance(usage.get(name), int) and usage[name] >= 0 else None
          for name in ('prompt_tokens', 'completion_tokens'))
  return None, None


def _finish(reason: Any) -> tuple[str | None, CallFailed | None]:
  if isinstance(reason, Mapping):
    reason = reason.get('type')
  if reason in (None, '', 'null'):
    return None, None
  # As in 'FinishReason.STOP', 'endTurn', 'max-tokens'.
  words = re.sub(r'(?<=[a-z])(?=[A-Z])', '_', str(reason).split('.')[-1])
  words = words.casefold().replace('-', '_').removeprefix('finish_reason_')
  if words in _WHOLE:
    return 'stop', None
  if _LENGTH.search(words):
    return 'length', None
  if words in _TOOLS:
    return 'error', _no_text('a call of a tool')
  return 'error', CallFailed(
      'server', f'the server ended the text with {reason!r}')


def _no_text(what: str) -> CallFailed:
  return CallFailed(
      'unsupported',
      f'the server answered with {what}, and chunks carry text alone')


def _tool_names(tools: Any) -> str:
  """Of calls of tools; '' if there are none, as some fill in empty ones."""
  calls = []
  for tool in tools if isinstance(tools, list) else [tools or {}]:
    function = tool.get('function') or tool
    if tool.get('id') or function.get('name') or function.get('arguments'):
      calls.append(str(function.get('name')))
  return ', '.join(calls)
