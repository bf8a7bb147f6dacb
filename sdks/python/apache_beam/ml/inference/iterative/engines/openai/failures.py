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

"""What an OpenAI-compatible server means that does not answer a call."""

import json
import re
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

# What is asked for in a body beside the user's own arguments; some servers
# refuse a body with fields that they do not know.
OPTIONAL_FIELDS = (
    'continuous_usage_stats', 'stream_options', 'return_token_ids', 'seed')

# The fields that say why, in the order in which they are looked for. The first
# of them have no other meaning in an event without choices.
_REASONS = (
    'message',
    'detail',
    'msg',
    'error_message',
    'error_msg',
    'errorMessage',
    'errors',
    'error',
    'base_resp',
    'status_msg',
    'reason',
    'title',
    'description',
    'fault',
    'faultstring')
_ALONE = _REASONS[:7]
# What is wrong with which field, beside a reason for all.
_DETAILS = ('errors', 'details', 'fieldViolations')
_SUCCESS = (0, '0', 200, '200', 'success', 'ok')
_FINE = re.compile('(ok|success(ful(ly)?)?|none)?[.!]?', re.I)
_CODES = (
    'code',
    'type',
    'status',
    'status_code',
    'http_status_code',
    'error_code',
    'error_type')
# What the words of codes stand for; the first that is found counts. Without
# 5xx and 429, the same call would fail again.
_MEANINGS = (
    (402, 'quota|billing|balance|credit|payment|arrear'),
    (429, 'rate_?limit|too_?many|throttl|resource_?exhausted'),
    (401, 'unauth|authentication|api_?key'),
    (
        400,
        'invalid|bad_?request|context|not_?found|unsupported|validation|'
        'permission|forbidden|moderation|policy|content'),
    (
        503,
        'overload|capacity|unavailable|busy|upstream|bad_?gateway|time_?out|'
        'internal|server_?error|api_?error|engine|connection|deadline|incomplete'
    ),
)
# In words alone, with the code of an internal error.
_TOO_LONG = re.compile(
    r'context\W*(length|size|window)|prompt is too long', re.I)


class CallFailed(Exception):
  """A call that did not end well.

  Attributes:
    kind, message: as in Delta.error.
    is_retriable: whether the same call may succeed later.
    retry_after: how long the server wants to be left alone, in seconds.
    named: those of OPTIONAL_FIELDS that the server speaks of.
  """
  def __init__(
      self,
      kind: str,
      message: str,
      is_retriable: bool = False,
      retry_after: float | None = None,
      named: Iterable[str] = ()):
    super().__init__(f'{kind}: {message}')
    self.kind = kind
    self.message = message
    self.is_retriable = is_retriable
    self.retry_after = retry_after
    self.named = tuple(named)


def is_failure(event: Mapping[str, Any]) -> bool:
  """Whether an event of a stream says that the call has failed."""
  error = event.get('error')
  if isinstance(error, Mapping):
    error = not _is_fine(error) and any(error.values())
  if error or 'error' in (event.get('object'), event.get('type')):
    return True
  status = event.get('base_resp')
  if isinstance(status, Mapping) and status.get('status_code'):
    return True
  if _is_fine(event):
    return False
  # A message that is an object is one of a chat.
  return not event.get('choices') and not event.get('usage') and any(
      event.get(key) and isinstance(event[key], (str, list))
      for key in _ALONE) or bool(event.get('detail'))


def _is_fine(answer: Mapping[str, Any]) -> bool:
  """Whether an answer says that all is well, in the form of a failure."""
  return answer.get('code') in _SUCCESS and bool(
      _FINE.fullmatch(str(answer.get('message') or '')))


def failure_of(
    answer: Any,
    status: int | None = None,
    retry_after: float | None = None,
    key_name: str | None = None) -> CallFailed:
  """What an answer means that is no completion.

  Args:
    answer: JSON, or bytes that are none.
    status: that of HTTP; None for an event of a stream.
    retry_after: what the server asks for, in seconds.
    key_name: of the environment variable that holds the key.
  """
  reason = words_of(answer)
  codes = [str(code) for code in _codes(answer)]
  meant = [code for code in map(_status_of, codes) if code]
  if _TOO_LONG.search(reason):
    meant.append(400)
  # Servers send 500, or 200 and an error, for what cannot be helped; a status
  # such as 404 says more than the words beside it, but for a lack of money.
  actual = status
  if meant and (status is None or not 401 <= status < 500 or 402 in meant):
    actual = min(meant)
  label = status if status and status >= 300 else next(iter(codes), None)
  parts = (label, reason or 'without a reason')
  message = ', '.join(dict.fromkeys(str(part) for part in parts if part))
  named = [name for name in OPTIONAL_FIELDS if name in str(answer)]
  if actual in (401, 403) and (actual == 401 or not reason):
    key = (
        f'the key in the environment variable {key_name}'
        if key_name else 'a request without a key; name the environment '
        'variable that holds one with api_key_env')
    message = f'{label}, the server refuses {key}' + f': {reason}' * bool(
        reason)
    return CallFailed('server', message)
  if actual in (402, 429):
    return CallFailed('rate_limit', message, actual == 429, retry_after, named)
  # 498 is Groq's, for a lack of capacity.
  if actual is None or not 400 <= actual < 500 or actual in (403, 408, 409,
                                                             498):
    again = actual in (408, 409, 498) or bool(actual and actual >= 500)
    return CallFailed(
        'server', message, again and actual != 501, retry_after, named)
  return CallFailed('invalid', message, named=named)


def words_of(answer: Any) -> str:
  """The words in which a server says what is wrong, else the answer."""
  if isinstance(answer, bytes):
    text = answer.decode(errors='replace')
    title = re.search('<title>(.*?)</title>', text, re.I | re.S)
    return (title[1] if title else text).strip()
  if answer is None or isinstance(answer, (list, Mapping)):
    return _reason(answer) or ('' if answer is None else json.dumps(answer))
  return str(answer)


def _reason(answer: Any) -> str:
  """As words_of, but '' if there are none."""
  if isinstance(answer, list):
    return '; '.join(filter(None, map(_reason, answer)))
  if not isinstance(answer, Mapping):
    return '' if answer is None else str(answer)
  key = next((key for key in _REASONS if answer.get(key)), None)
  found = '' if key is None else _reason(answer[key])
  details = [
      _reason(answer[name]) for name in _DETAILS
      if name != key and isinstance(answer.get(name), list)
  ]
  details = [detail for detail in details if detail and detail != found]
  if details:
    found = f'{found} ({"; ".join(details)})' if found else '; '.join(details)
  place = answer.get('loc') or answer.get('field')
  if isinstance(place, (list, tuple)):
    place = '.'.join(map(str, place))
  if found and isinstance(place, str):
    found = f'{place}: {found}'
  metadata = answer.get('metadata')
  raw = metadata.get('raw') if isinstance(metadata, Mapping) else None
  return f'{found} ({raw})' if raw else found


def _codes(answer: Any) -> list[Any]:
  if isinstance(answer, list):
    return [code for part in answer[:1] for code in _codes(part)]
  if not isinstance(answer, Mapping):
    return []
  own = [answer[key] for key in _CODES if answer.get(key)]
  # Not the code of a whole answer, such as 'error'.
  own = [
      code for code in own if isinstance(code, (int, str)) and code != 'error'
  ]
  return _codes(answer.get('error')) + _codes(answer.get('base_resp')) + own


def _status_of(code: str) -> int | None:
  """The HTTP status that a code stands for; FastChat's have two digits more."""
  if re.fullmatch(r'[45]\d\d(\d\d)?', code):
    return int(code[:3])
  words = re.sub('[- ]', '_', code.casefold())
  return next((s for s, words_of in _MEANINGS if re.search(words_of, words)),
              None)
