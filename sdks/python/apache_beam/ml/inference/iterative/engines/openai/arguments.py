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

"""Prompts and sampling parameters of OpenAI-compatible servers."""

import functools
import re
from collections.abc import Mapping
from typing import Any

# OpenAI's own default for completions. It is sent, so that a call which goes on
# from a transcript has a limit too.
DEFAULT_MAX_TOKENS = 16

# Fields by which servers take grammars, schemas and tools.
_GRAMMAR = re.compile(
    '^(response_format|structured_outputs?|guided_.*|grammar|ebnf|regex|json|'
    'json_schema|choice|tools|functions|guidance)$')
_KEY = re.compile('api_?key|authorization', re.I)
_NUMBERS = {
    'temperature': (0, 2),
    'top_p': (0, 1),
    'frequency_penalty': (-2, 2),
    'presence_penalty': (-2, 2),
}
_LIMITS = {
    'completions': ('max_tokens', ),
    'chat': ('max_tokens', 'max_completion_tokens'),
}
_OTHERS = ('stop', 'seed', 'logit_bias', 'user', 'extra_body')
# Set here, or not of one text for one input.
_NOT_IN_EXTRA_BODY = frozenset((
    'model',
    'prompt',
    'messages',
    'stream',
    'stream_options',
    'n',
    'best_of',
    'echo',
    'stop',
    'max_tokens',
    'max_completion_tokens',
    'extra_body',
    'return_token_ids'))


def check_args(endpoint: str, args: Mapping[str, Any]) -> None:
  """Checks inference_args.

  Raises:
    TypeError: if one has the wrong type.
    ValueError: if one is unknown or out of range; the message names it.
  """
  known = (*_LIMITS[endpoint], *_NUMBERS, *_OTHERS)
  for name, value in args.items():
    if name not in known:
      raise ValueError(
          f'inference_args: unknown argument {name!r}. Known for {endpoint} '
          f'are {", ".join(known)}; what only this server knows goes into '
          'extra_body.')
    _check(name, value)


def check_prompt(endpoint: str, prompt: Any) -> None:
  """Raises ValueError unless the endpoint takes the prompt."""
  if not prompt and isinstance(prompt, (str, list, tuple)):
    raise ValueError('the prompt is empty; filter such inputs before')
  if isinstance(prompt, str):
    return
  if not isinstance(prompt, (list, tuple)):
    raise ValueError(
        f'a prompt for {endpoint} is a str or a list, not a '
        f'{type(prompt).__name__}')
  if endpoint == 'completions':
    if not all(_is_int(token) and token >= 0 for token in prompt):
      raise ValueError('a prompt which is a list holds token ids, ints from 0')
  elif not all(isinstance(message, Mapping) and 'role' in message and
               ('content' in message or message.get('tool_calls'))
               for message in prompt):
    raise ValueError(
        "each message of a prompt is a dict with the keys 'role' and 'content'")


def token_limit(endpoint: str, args: Mapping[str, Any]) -> int | None:
  """How many tokens to generate at most; None: until the context is full."""
  for name in _LIMITS[endpoint]:
    if args.get(name) is not None:
      return args[name]
  return DEFAULT_MAX_TOKENS if endpoint == 'completions' else None


def stop_strings(args: Mapping[str, Any]) -> tuple[str, ...]:
  stop = args.get('stop') or ()
  return (stop, ) if isinstance(stop, str) else tuple(stop)


def is_constrained(args: Mapping[str, Any]) -> bool:
  """Whether a text follows a grammar, which starts anew with each call."""
  return any(
      # An empty schema is one; text is none.
      _GRAMMAR.search(name) and value not in (
          None, False, [], {
              'type': 'text'
          }) for name, value in (args.get('extra_body') or {}).items())


def check_int(name: str, value: Any, least: int) -> None:
  """Raises TypeError or ValueError unless it is an int from least."""
  _check_any_int(name, value)
  if value < least:
    raise ValueError(
        f'inference_args: {name}={value!r} must be at least {least}.')


def check_number(name: str, value: Any, low: float, high: float) -> None:
  """Raises TypeError or ValueError unless it is a number from low to high."""
  if not isinstance(value, (int, float)) or isinstance(value, bool):
    raise TypeError(f'inference_args: {name}={value!r} must be a number.')
  if not low <= value <= high:
    raise ValueError(
        f'inference_args: {name}={value!r} must be from {low} to {high}.')


def _check(name: str, value: Any) -> None:
  if value is not None:
    _CHECKS[name](name, value)


def _is_int(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


def _check_any_int(name: str, value: Any) -> None:
  if not _is_int(value):
    raise TypeError(f'inference_args: {name}={value!r} must be an int.')


def _check_stop(name: str, value: Any) -> None:
  values = [value] if isinstance(value, str) else value
  if not isinstance(values, (list, tuple)) or not all(isinstance(v, str)
                                                      for v in values):
    raise TypeError(
        f'inference_args: {name}={value!r} must be a str or a list of them.')
  if not all(values):
    raise ValueError(f'inference_args: {name}={value!r} holds an empty str.')


def _check_bias(name: str, value: Any) -> None:
  if not isinstance(value, Mapping):
    raise TypeError(
        f'inference_args: {name}={value!r} must map token ids to numbers.')


def _check_user(name: str, value: Any) -> None:
  if not isinstance(value, str):
    raise TypeError(f'inference_args: {name}={value!r} must be a str.')


def _check_extra_body(name: str, value: Any) -> None:
  if not isinstance(value, Mapping):
    raise TypeError(f'inference_args: {name}={value!r} must be a dict.')
  taken = sorted(_NOT_IN_EXTRA_BODY & set(value))
  if taken:
    raise ValueError(
        f'inference_args: {name} holds {", ".join(taken)}, which Beam sets, or '
        'which is not for one text per input.')
  keys = sorted(key for key in value if _KEY.fullmatch(str(key)))
  if keys:
    raise ValueError(
        f'inference_args: {name} holds {", ".join(keys)}, and a key in it would '
        'be a part of the pipeline. Name the environment variable of the '
        'workers that holds the key with api_key_env.')
  for known in sorted(_CHECKS.keys() & value.keys()):
    _check(known, value[known])


_check_limit = functools.partial(check_int, least=0)
_CHECKS = {
    **{
        name: functools.partial(check_number, low=low, high=high)
        for name, (low, high) in _NUMBERS.items()
    },
    'max_tokens': _check_limit,
    'max_completion_tokens': _check_limit,
    'stop': _check_stop,
    'seed': _check_any_int,
    'logit_bias': _check_bias,
    'user': _check_user,
    'extra_body': _check_extra_body,
}
