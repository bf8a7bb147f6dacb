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

"""The inference_args of generation by a Hugging Face model."""

import dataclasses
from collections.abc import Mapping
from typing import Any

DEFAULT_MAX_NEW_TOKENS = 256

_SAMPLING = ('temperature', 'top_p', 'top_k')
# Why names that generate() has are not here.
_UNSUPPORTED = {
    'repetition_penalty': (
        'continuous batching gives a penalty the last token only'),
    'seed': (
        'the requests of a process draw from one generator, in an order that '
        'depends on which run together'),
    'num_beams': 'continuous batching has no beam search',
    'num_return_sequences': 'one result is made for each input',
}


@dataclasses.dataclass(frozen=True)
class GenerationArgs:
  """How to generate for a request.

  Args:
    max_new_tokens: at most so many tokens, 0 or more.
    temperature: more than 0; 1 leaves the model's distribution as it is.
    top_p: draw from the likeliest tokens whose probabilities add up to so
      much, more than 0 and at most 1.
    top_k: draw from so many of the likeliest tokens, at least 1.
    stop: a string or several. The text ends before the first that comes up.
    ignore_eos: whether to go on to max_new_tokens whatever the model says.

  Raises:
    TypeError: if a value has the wrong type.
    ValueError: if a value is out of range.
  """
  max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS
  temperature: float | None = None
  top_p: float | None = None
  top_k: int | None = None
  stop: str | tuple[str, ...] = ()
  ignore_eos: bool = False

  def __post_init__(self):
    _check_int('max_new_tokens', self.max_new_tokens, 0)
    if self.top_k is not None:
      _check_int('top_k', self.top_k, 1)
    if self.temperature is not None:
      _check_number('temperature', self.temperature)
    if self.top_p is not None:
      _check_number('top_p', self.top_p, 1)
    if not isinstance(self.ignore_eos, bool):
      raise TypeError(
          f'inference_args: ignore_eos={self.ignore_eos!r} must be a bool.')
    stop = (self.stop, ) if isinstance(self.stop, str) else self.stop
    if not (isinstance(stop, (list, tuple)) and all(isinstance(s, str)
                                                    for s in stop)):
      raise TypeError(
          f'inference_args: stop={self.stop!r} must be a str or a list of str.')
    if not all(stop):
      raise ValueError(
          f'inference_args: stop={self.stop!r}: an empty string would stop at '
          'once. Leave it out.')
    object.__setattr__(self, 'stop', tuple(stop))

  @classmethod
  def of(
      cls, inference_args: Mapping[str, Any] | None,
      do_sample: bool) -> 'GenerationArgs':
    """Checks inference_args for a model that samples, or does not.

    Raises:
      TypeError: if a value has the wrong type.
      ValueError: if there is a name that is not known or does not go with
        do_sample, or a value out of range.
    """
    args = dict(inference_args or {})
    if args.pop('do_sample', do_sample) != do_sample:
      raise ValueError(
          f'inference_args: do_sample is {do_sample} for the whole model. Give '
          f'the handler do_sample={not do_sample} instead.')
    known = [field.name for field in dataclasses.fields(cls)]
    for name in args:
      if name in _UNSUPPORTED:
        raise ValueError(
            f'inference_args: {name} is not supported, because '
            f'{_UNSUPPORTED[name]}.')
      if name not in known:
        raise ValueError(
            f'inference_args: {name} is not known. There are '
            f'{", ".join(known)}.')
      if name in _SAMPLING and not do_sample:
        raise ValueError(
            f'inference_args: {name} has no effect without sampling. Give the '
            'handler do_sample=True, or leave it out.')
    return cls(**args)


def _check_int(name: str, value: Any, least: int) -> None:
  if not isinstance(value, int) or isinstance(value, bool):
    raise TypeError(f'inference_args: {name}={value!r} must be an int.')
  if value < least:
    raise ValueError(
        f'inference_args: {name}={value!r} must be at least {least}.')


def _check_number(name: str, value: Any, most: float = float('inf')) -> None:
  if not isinstance(value, (int, float)) or isinstance(value, bool):
    raise TypeError(f'inference_args: {name}={value!r} must be a number.')
  if not (0 < value <= most) or value == float('inf'):
    remedy = ' For the likeliest token leave out do_sample.' if (
        name == 'temperature') else ''
    raise ValueError(
        f'inference_args: {name}={value!r} must be finite, more than 0' +
        (f' and at most {most:g}.' if most < float('inf') else '.') + remedy)
