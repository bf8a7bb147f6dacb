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

"""What users set about padding, and its validation."""

# pytype: skip-file

import numbers
from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class PaddingOptions:
  """How a model handler pads tensors along their first dimension.

  ::

    PytorchModelHandlerKeyedTensor(..., padding=PaddingOptions())

  The handler then knows the length of each example, so with
  --experiments=smart_bucketing it batches by length without a batch_length_fn.

  Padding leaves the results as they are if the model ignores padded positions,
  which most models do only with a mask. Each worker verifies this by running
  one example alone.

  Args:
    pad_value: the number in padded positions. Keyed handlers also accept a
      mapping from key to number, with 0 for keys that it lacks; they require
      one if several keys are padded and not all with 0. 'auto': the
      pad_token_id of a Hugging Face model for its token ids, otherwise 0.
    side: 'right' pads after the data, 'left' before it, as decoders need for
      `generate`, which is an error with 'right' unless `verify` is False. Left
      padding shifts absolute positions: a model that has them, such as GPT-2,
      needs position_ids among the keys of each example. Rotary and relative
      positions need nothing.
    mask: the name of the model's mask argument; None if it has none. 'auto':
      'attention_mask' if a Hugging Face or ONNX model has it and the handler
      has no inference_fn of the user, otherwise none. The mask is an int64
      tensor of shape (batch, longest), 1 for data and 0 for padding; for an
      ONNX model it has the type of that input. It is passed with every batch:
      by tensor handlers as a keyword argument of the model call, by keyed
      handlers as a key of each example, to an ONNX model as an input. A mask
      that examples contain is kept, and padded with 0.
    sequence_keys: the keys that a keyed handler pads, in addition to the mask.
      None: all keys whose tensors have a dimension. They must have one length
      within an example.
    per_token_outputs: the outputs of shape (batch, tokens, ...), which are cut
      to the length of each example. True: all outputs. False: none. A tuple:
      the outputs of these names, for a model that returns a dict. 'auto': each
      output whose second dimension is the padded length, unless the shortest
      example, run alone once for each output, shows that this size is constant;
      every dimension that follows the length is cut, such as both of attention
      weights. With 'auto' any other size that the padding changes is an error,
      unless `verify` is False. Outputs of `generate` keep the padding of the
      prompt. For `generate` of an encoder-decoder, whose output length depends
      on the content, use False.
    pad_to_multiple_of: the padded length is rounded up to a multiple of this
      number, which makes accelerators and compilers see fewer shapes. With
      --experiments=smart_bucketing lengths are rounded up too.
    verify: whether it is an error if results depend on the other examples of a
      batch. The floating-point outputs of the shortest example are compared
      with those that the model gives for it alone: in the first padded batch,
      in later ones with twice the padding, and in each that is longer than all
      before. Without a mask integer outputs are compared too. Set it to False
      for a model with random results.

  Raises:
    TypeError, ValueError: if a field has a wrong type or value.
  """
  pad_value: float | Mapping[str, float] | Literal['auto'] = 'auto'
  side: Literal['right', 'left'] = 'right'
  mask: str | None = 'auto'
  sequence_keys: tuple[str, ...] | None = None
  per_token_outputs: bool | str | tuple[str, ...] = 'auto'
  pad_to_multiple_of: int = 1
  verify: bool = True

  def __post_init__(self):
    self._check_pad_value()
    if self.side not in ('right', 'left'):
      raise ValueError(
          f"PaddingOptions: side must be 'right' or 'left', not {self.side!r}.")
    if self.mask is not None and not (isinstance(self.mask, str) and self.mask):
      raise ValueError(
          'PaddingOptions: mask must be the name of an argument of the model, '
          f'or None, not {self.mask!r}.')
    if self.sequence_keys is not None:
      self._set_names('sequence_keys')
    if not isinstance(self.per_token_outputs,
                      bool) and self.per_token_outputs != 'auto':
      self._set_names('per_token_outputs')
    self._check_value_keys()
    if type(self.pad_to_multiple_of) is not int or self.pad_to_multiple_of < 1:
      raise ValueError(
          'PaddingOptions: pad_to_multiple_of must be an int of at least 1, not '
          f'{self.pad_to_multiple_of!r}.')
    if not isinstance(self.verify, bool):
      raise TypeError(
          f'PaddingOptions: verify must be a bool, not {self.verify!r}.')

  def padded_length(self, length: int) -> int:
    """The length to which examples are padded of which this is the longest."""
    return -(-length // self.pad_to_multiple_of) * self.pad_to_multiple_of

  def _check_pad_value(self):
    if self.pad_value == 'auto':
      return
    values = {'pad_value': self.pad_value}
    if isinstance(self.pad_value, Mapping):
      # A copy, as the caller may change the mapping later.
      object.__setattr__(self, 'pad_value', dict(self.pad_value))
      values = {f'pad_value[{k!r}]': v for k, v in self.pad_value.items()}
    for name, value in values.items():
      if not isinstance(value, numbers.Real):
        raise TypeError(
            f'PaddingOptions: {name} must be a number, not {value!r}.')

  def _set_names(self, field):
    names = getattr(self, field)
    if isinstance(names, str) or not isinstance(names, Iterable):
      raise TypeError(
          f'PaddingOptions: {field} must be a tuple of names, not {names!r}.')
    names = tuple(names)
    if not names or len(set(names)) < len(names):
      raise ValueError(
          f'PaddingOptions: {field} must hold distinct names and at least one, '
          f'got {names!r}.')
    if not all(isinstance(name, str) for name in names):
      raise TypeError(f'PaddingOptions: {field} must hold names, got {names!r}')
    object.__setattr__(self, field, names)

  def _check_value_keys(self):
    if not isinstance(self.pad_value, dict):
      return
    if self.pad_value.get(self.mask, 0) != 0:
      raise ValueError(
          f'PaddingOptions: pad_value gives {self.pad_value[self.mask]} for '
          f'the mask {self.mask!r}, which is always padded with 0.')
    unused = set(self.pad_value) - set(self.sequence_keys or self.pad_value)
    unused.discard(self.mask)
    if unused:
      raise ValueError(
          f'PaddingOptions: pad_value names {sorted(unused)}, which '
          'sequence_keys does not pad.')
