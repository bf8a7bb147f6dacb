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

"""What a model says of its inputs: which mask it takes, and what it pads with."""

# pytype: skip-file

import inspect
from typing import Any

_MASK = 'attention_mask'


def mask_of(model: Any) -> str | None:
  """The mask of a Hugging Face model or of an ONNX Runtime session; None for
  others, and if it takes none."""
  model = _innermost(model)
  if not (_is_hugging_face(model) or _is_session(model)):
    return None
  return _MASK if _MASK in _parameters(model)[0] else None


def pad_value_of(model: Any) -> tuple[str | None, int]:
  """The key of a Hugging Face model's token ids and what they are padded with.

  (None, 0) for other models, and where the model names no such value.
  """
  model = _innermost(model)
  if not _is_hugging_face(model):
    return None, 0
  config = getattr(model, 'config', None)
  value = getattr(config, 'pad_token_id', None)
  if not isinstance(value, int):
    return None, 0
  return getattr(model, 'main_input_name', 'input_ids'), value


def mask_dtype(model: Any, mask: str | None) -> str:
  """The name of the dtype of a mask: int64, but where a session says another."""
  if _is_session(model):
    for entry in model.get_inputs():
      if entry.name == mask:
        return input_dtype(entry)
  return 'int64'


def input_dtype(entry: Any) -> str:
  """The dtype of an input of a session, by NumPy's name where it has one."""
  dtype = entry.type.removeprefix('tensor(').removesuffix(')')
  return {'float': 'float32', 'double': 'float64'}.get(dtype, dtype)


def masks_of(model: Any) -> list[str]:
  """The parameters of the forward function that may be masks, by their names."""
  return [name for name in _parameters(_innermost(model))[0] if 'mask' in name]


def takes(model: Any, name: str) -> bool:
  """Whether the forward function of a Hugging Face model has a parameter."""
  model = _innermost(model)
  return _is_hugging_face(model) and name in _parameters(model)[0]


def is_decoder(model: Any) -> bool:
  """Whether a Hugging Face model appends what it generates to its input."""
  model = _innermost(model)
  config = getattr(model, 'config', None)
  if not _is_hugging_face(model) or config is None:
    return False
  # Some encode their input without saying that they do, as those of BLIP.
  encodes = getattr(config, 'is_encoder_decoder', False) or any(
      hasattr(model, name) for name in ('encoder', 'text_encoder'))
  head = getattr(model, 'get_output_embeddings', lambda: None)
  return not encodes and head() is not None


def check_mask(model: Any, mask: str, handler: str) -> None:
  """Refuses a mask that the model would not look at.

  Raises:
    ValueError: if its forward function has parameters of other names only, or
      hands on any name, as that of Hugging Face models, and is known not to
      look at this one.
  """
  model = _innermost(model)
  names, takes_any = _parameters(model)
  if mask in names or not names or takes_any and not _is_hugging_face(model):
    return
  others = [name for name in names if 'mask' in name] or names
  what = 'the' if _is_session(model) else 'the forward function of'
  raise ValueError(
      f'{handler}: PaddingOptions.mask is {mask!r}, but {what} '
      f'{type(model).__name__} takes no such argument. It takes '
      f'{", ".join(others)}. Name the one that hides padding, or None.')


def _is_hugging_face(model):
  return any(
      base.__module__.partition('.')[0] == 'transformers'
      for base in type(model).__mro__)


def _is_session(model):
  return type(model).__module__.partition('.')[0] == 'onnxruntime'


def _innermost(model):
  """The model inside of what parallelizes, compiles or adapts it."""
  while True:
    inner = getattr(model, '_orig_mod', None)
    if inner is None and type(model).__name__ in ('DataParallel',
                                                  'DistributedDataParallel'):
      inner = model.module
    if inner is None and type(model).__module__.partition('.')[0] == 'peft':
      inner = model.get_base_model()
    if inner is None or inner is model:
      return model
    model = inner


def _parameters(model) -> tuple[list[str], bool]:
  """The names of the forward function's parameters, none if they are not known,
  and whether it takes any other."""
  if _is_session(model):
    return [entry.name for entry in model.get_inputs()], False
  function = getattr(model, 'forward', model)
  try:
    parameters = inspect.signature(function).parameters.values()
  except (TypeError, ValueError):
    return [], True
  named = [
      p.name for p in parameters
      if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
  ]
  return named, any(p.kind is p.VAR_KEYWORD for p in parameters)
