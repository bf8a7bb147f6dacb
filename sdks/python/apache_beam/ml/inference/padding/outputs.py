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

"""The outputs of a model for a batch, as outputs for each of its examples.

An output has a row for each example, or it holds others that do, such as the
hidden states of all layers. Whatever else a model returns, such as a cache, is
refused: it would become one example's result for another.
"""

# pytype: skip-file

from collections.abc import Mapping
from typing import Any

from apache_beam.ml.inference.padding import model as models


class ByExample:
  """Stands in for a model, and gives its outputs as a list, one per example.

  Args:
    model: the model.
    count: how many examples the batch has.
    handler: the name of the model handler, for error messages.
    pads_right: whether examples of the batch are padded after their data.
  """
  def __init__(
      self, model: Any, count: int, handler: str, pads_right: bool = False):
    self._model = model
    self._count = count
    self._handler = handler
    self._pads_right = pads_right

  def __call__(self, *args, **kwargs):
    return split(self._model(*args, **kwargs), self._count, self._handler)

  def __getattr__(self, name):
    method = getattr(self._model, name)
    if not callable(method):
      return method
    if name == 'generate' and self._pads_right and models.is_decoder(
        self._model):
      raise ValueError(
          f'{self._handler}: padding on the right would come between the prompt '
          f'and what {type(self._model).__name__} generates. Pass '
          "PaddingOptions(side='left').")
    return lambda *args, **kwargs: split(
        method(*args, **kwargs), self._count, self._handler)


def split(outputs: Any, count: int, handler: str) -> list[Any]:
  """The outputs of each example of a batch.

  A tensor or array gives its rows; a mapping, tuple or list of such gives one of
  the same kind for each example, at any depth.

  Raises:
    ValueError: if an output is none of these; the message names it.
  """
  if isinstance(outputs, list) and len(outputs) == count and (
      count == 1 or not _is_by_example(outputs[0], count)):
    return outputs
  if isinstance(outputs, list) and len(outputs) == count:
    raise ValueError(
        f'{handler}: the model returned a list of {count} outputs of {count} '
        'rows each for as many examples, which may be an output for each '
        'example or one after the other. Let it return a tuple or a dict of '
        'outputs, or one tensor.')
  return _split(outputs, count, handler, '')


def _split(output, count, handler, name):
  if isinstance(output, Mapping):
    parts = {
        key: _split(value, count, handler, _join(name, key))
        for key, value in output.items()
    }
    return [{key: rows[i] for key, rows in parts.items()} for i in range(count)]
  if isinstance(output, (tuple, list)) and output:
    rows = [
        _split(value, count, handler, _join(name, index))
        for index, value in enumerate(output)
    ]
    return [_like(output, parts) for parts in zip(*rows)]
  if _is_by_example(output, count):
    return [output[i] for i in range(count)]
  if name and (output is None or output == ()):
    # As the attentions of layers that have none.
    return [output] * count
  raise ValueError(_message(output, count, handler, name))


def _like(output, parts):
  if hasattr(output, '_make'):
    return output._make(parts)
  return list(parts) if isinstance(output, list) else tuple(parts)


def _is_by_example(output, count):
  shape = getattr(output, 'shape', None)
  return shape is not None and len(shape) > 0 and shape[0] == count


def _join(name, key):
  return f'{name}[{key!r}]'


def _message(output, count, handler, name):
  shape = getattr(output, 'shape', None)
  what = type(output).__name__
  if shape is not None:
    what = f'a {what} of shape {tuple(shape)}'
  elif name:
    what = f'a {what}'
  where = f'the output {name}' if name else 'the output'
  remedy = (
      "Leave it out, with inference_args={'use_cache': False}, or of generate "
      "with {'return_dict_in_generate': False}."
      if 'past_key_values' in name else
      'Leave it out of what the model returns, or pass an inference_fn that '
      'gives each example its own.')
  return (
      f'{handler}: {where} of the model is {what}, which has no row for each of '
      f'the {count} examples of the batch. {remedy}')
