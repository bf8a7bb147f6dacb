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

"""Model handlers for servers that speak OpenAI's API, which can stream."""

import os
import re
import urllib.parse
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

from apache_beam.ml.inference.iterative import SessionModelHandler
from apache_beam.ml.inference.iterative.engines.openai import arguments as openai_arguments
from apache_beam.ml.inference.iterative.engines.openai.api_keys import hide_keys
from apache_beam.ml.inference.iterative.engines.openai.api_keys import is_variable_name
from apache_beam.ml.inference.iterative.engines.openai.backoff import Backoff
from apache_beam.ml.inference.iterative.engines.openai.client import ServerLimits
from apache_beam.ml.inference.iterative.engines.openai.session import OpenAISession

__all__ = [
    'Backoff',
    'OpenAIChatModelHandler',
    'OpenAICompletionsModelHandler',
    'ServerLimits',
]


class _OpenAIModelHandler(SessionModelHandler):
  """What both endpoints share."""

  _endpoint: str
  _levels: tuple[str, ...]

  def __init__(
      self,
      base_url: str,
      model: str,
      *,
      api_key_env: str | None = None,
      resumes: str | None = None,
      limits: ServerLimits | None = None,
      backoff: Backoff | None = None,
      min_batch_size: int | None = None,
      max_batch_size: int | None = None,
      max_batch_duration_secs: int | None = None,
      max_batch_weight: int | None = None,
      element_size_fn: Callable[[Any], int] | None = None):
    super().__init__(
        min_batch_size=min_batch_size,
        max_batch_size=max_batch_size,
        max_batch_duration_secs=max_batch_duration_secs,
        max_batch_weight=max_batch_weight,
        element_size_fn=element_size_fn)
    self._name = name = type(self).__name__
    _check_url(name, base_url)
    if not isinstance(model, str) or not model or hide_keys(model) != model:
      raise ValueError(
          f'{name}(model={_shown(model)}): must be the name that the server '
          'gives the model.')
    if api_key_env is not None and (not isinstance(api_key_env, str) or
                                    not is_variable_name(api_key_env)):
      # Maybe it is the key itself, so it is not shown.
      raise ValueError(
          f'{name}(api_key_env=...): must be the name of an environment '
          'variable of the workers that holds the key, not the key. A name is '
          'made of words, like OPENAI_API_KEY.')
    if resumes not in (None, *self._levels):
      raise ValueError(
          f'{name}(resumes={resumes!r}): must be None or one of '
          f'{", ".join(map(repr, self._levels))}.')
    for option, value, kind in (
        ('limits', limits, ServerLimits), ('backoff', backoff, Backoff)):
      if value is not None and not isinstance(value, kind):
        raise TypeError(
            f'{name}({option}={value!r}): must be a {kind.__name__}.')
    self._base_url = base_url
    self._model = model
    self._api_key_env = api_key_env
    self._resumes = resumes
    self._limits = limits or ServerLimits()
    self._backoff = backoff or Backoff()

  def open_session(self) -> OpenAISession:
    return OpenAISession(
        self._base_url,
        self._model,
        self._endpoint,
        self._api_key(),
        self._api_key_env,
        self._resumes,
        self._limits,
        self._backoff)

  def prompt_of(self, example: Any) -> Any:
    openai_arguments.check_prompt(self._endpoint, example)
    return example

  def session_model_id(self) -> str:
    return self._model

  def validate_inference_args(
      self, inference_args: Mapping[str, Any] | None) -> None:
    openai_arguments.check_args(self._endpoint, inference_args or {})

  def splits_failed_batches(self) -> bool:
    return False

  def get_metrics_namespace(self) -> str:
    return 'BeamML_OpenAI'

  def _api_key(self) -> str | None:
    if self._api_key_env is None:
      return None
    key = os.environ.get(self._api_key_env, '').strip()
    if not key:
      raise RuntimeError(
          f'{self._name}(api_key_env={self._api_key_env!r}): this environment '
          'variable is not set where the pipeline runs. Set it on the workers, '
          'from the secrets of the runner.')
    if not key.isascii() or not key.isprintable():
      raise RuntimeError(
          f'{self._name}(api_key_env={self._api_key_env!r}): this environment '
          'variable holds characters that cannot be sent in a header.')
    return key


class OpenAICompletionsModelHandler(_OpenAIModelHandler):
  """Completes texts on any server with OpenAI's endpoint /v1/completions.

  Such servers are vLLM, TGI and ``transformers serve``. Examples are str, or
  lists of token ids if the server accepts them::

    RunInference(
        OpenAICompletionsModelHandler(
            'http://gpu-host:8000/v1', 'Qwen/Qwen3-8B'),
        inference_args={'max_tokens': 200, 'temperature': 0},
        iterative=IterativeOptions())

  emits chunks. Without ``iterative`` it makes PredictionResults with a
  ``Generation``.

  inference_args can be max_tokens (16 by default), temperature, top_p,
  frequency_penalty, presence_penalty, stop, seed, logit_bias and user, as in
  OpenAI's API, and extra_body for fields that only this server knows.

  The server has to end a text because it is complete or has reached its limit.
  Any other end is an error with the server's message, and so are refusals and
  tool calls, as chunks have text only. If the connection breaks, a text with a
  grammar (response_format, guided_json and others) or with tools is an error
  too, as the server would start again instead of resuming.

  Args:
    base_url: the address including /v1. ``https://`` certificates are always
      verified, against SSL_CERT_FILE of the environment if it is set.
    model: the server's name of the model.
    api_key_env: the name of an environment variable of the workers that has the
      key. The key itself is never part of the pipeline. Nothing else of the
      environment is sent; its proxies are used.
    resumes: how a call that broke is resumed. 'exact': from token ids, with
      vLLM's return_token_ids and /tokenize. 'text': from the text, tokenized
      again. 'none': a failure after the first token is an error. None: 'exact'
      if the server says that it is vLLM, otherwise 'text'.
    limits: how long the server may be silent and how much it may send.
    backoff: how often and when a failed call is repeated: one that broke, timed
      out or ended early, or had the HTTP status 408, 429 or 5xx.
    min_batch_size, max_batch_size, max_batch_duration_secs, max_batch_weight,
      element_size_fn: of the batches without ``iterative``.

  Raises:
    TypeError: if an argument has the wrong type.
    ValueError: if one has no valid value.
  """
  _endpoint = 'completions'
  _levels = ('exact', 'text', 'none')


class OpenAIChatModelHandler(_OpenAIModelHandler):
  """Answers messages on any server with OpenAI's /v1/chat/completions.

  An example is a str, which is one message of the user, or a list of dicts with
  the keys 'role' and 'content'.

  The parameters and inference_args are those of OpenAICompletionsModelHandler.
  There is max_completion_tokens in addition, and no default of max_tokens.

  Args:
    resumes: 'text' needs a server that continues the last message, as vLLM does
      with continue_final_message. 'none': a failure after the first token is an
      error. None: 'text' if the server says that it is vLLM, otherwise 'none'.
  """
  _endpoint = 'chat'
  _levels = ('text', 'none')


def _check_url(name: str, base_url: Any) -> None:
  if not isinstance(base_url, str):
    raise TypeError(f'{name}(base_url={_shown(base_url)}): must be a str.')
  try:
    url = urllib.parse.urlsplit(base_url)
    is_url = bool(url.port is None or
                  url.port) and not re.search(r'\s', base_url)
  except ValueError:
    # What may hold a key is not shown.
    is_url, url = False, urllib.parse.urlsplit(
        '?key' if re.search('[?#@]', base_url) else '')
  if url.username or url.password or url.query or url.fragment:
    # Not shown, it may hold a key.
    raise ValueError(
        f'{name}(base_url=...): must hold no user, password, query or fragment; '
        'name the environment variable of the key with api_key_env.')
  if not is_url or url.scheme not in ('http', 'https') or not url.hostname:
    raise ValueError(
        f'{name}(base_url={_shown(base_url)}): must be like '
        "'https://host/v1' or 'http://host:port/v1'.")


def _shown(value: Any) -> str:
  """A value of a wrong argument, unless it may be a key in the wrong place."""
  text = repr(value)
  is_key = isinstance(value, str) and len(value) >= 16 and value.isalnum()
  return '...' if is_key or hide_keys(text) != text else text
