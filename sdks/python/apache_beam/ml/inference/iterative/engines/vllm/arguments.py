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

"""The inference_args of iterative inference with vLLM."""

import functools
import math
from collections.abc import Mapping
from typing import Any

from apache_beam.ml.inference.iterative.engines.openai.arguments import check_args as check_openai_args
from apache_beam.ml.inference.iterative.engines.openai.arguments import check_int
from apache_beam.ml.inference.iterative.engines.openai.arguments import check_number
from apache_beam.ml.inference.iterative.engines.openai.arguments import token_limit


def check_args(endpoint: str, args: Mapping[str, Any]) -> None:
  """Checks inference_args, and vLLM's own sampling parameters in extra_body.

  The ranges are those of its SamplingParams,
  https://docs.vllm.ai/en/latest/api/vllm/sampling_params.html. Other names in
  extra_body are left to the server, since each release of vLLM adds some.

  Raises:
    TypeError: if one has the wrong type.
    ValueError: if one is unknown or out of range; the message names it.
  """
  check_openai_args(endpoint, args)
  given = {**args, **(args.get('extra_body') or {})}
  for name, value in given.items():
    if name in _CHECKS and value is not None:
      _CHECKS[name](name, value)
  least, most = given.get('min_tokens') or 0, token_limit(endpoint, args)
  if most is not None and least > most:
    raise ValueError(
        f'inference_args: min_tokens={least} is more than max_tokens={most}.')


def _check_positive(name: str, value: Any) -> None:
  check_number(name, value, 0, math.inf)
  if not 0 < value < math.inf:
    raise ValueError(
        f'inference_args: {name}={value!r} must be finite and more than 0.')


def _check_bool(name: str, value: Any) -> None:
  if not isinstance(value, bool):
    raise TypeError(f'inference_args: {name}={value!r} must be a bool.')


def _check_list(name: str, value: Any, kind: type) -> None:
  if not isinstance(value, (list, tuple)) or not all(isinstance(v, kind)
                                                     for v in value):
    raise TypeError(
        f'inference_args: {name}={value!r} must be a list of {kind.__name__}.')
  if '' in value:
    raise ValueError(f'inference_args: {name}={value!r} holds an empty str.')


def _refuse(name: str, value: Any) -> None:
  if value:
    raise ValueError(
        f'inference_args: {name}={value!r}, and vLLM does not stream texts with '
        'it. Leave it or iterative out.')


_check_token_ids = functools.partial(_check_list, kind=int)
_CHECKS = {
    'allowed_token_ids': _check_token_ids,
    'bad_words': functools.partial(_check_list, kind=str),
    'ignore_eos': _check_bool,
    'min_p': functools.partial(check_number, low=0, high=1),
    'min_tokens': functools.partial(check_int, least=0),
    'prompt_logprobs': _refuse,
    'repetition_penalty': _check_positive,
    'skip_special_tokens': _check_bool,
    'spaces_between_special_tokens': _check_bool,
    'stop_token_ids': _check_token_ids,
    'top_k': functools.partial(check_int, least=-1),
    'top_p': _check_positive,
    'use_beam_search': _refuse,
}
