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

  With --experiments=smart_bucketing tensors of similar length are batched
  together, without a batch_length_fn: the handler knows the length it pads.

  A result does not depend on the other examples of its batch if the model
  ignores padded positions, which most models do only by means of a mask. That
  is verified in each worker, by a model call for one example alone.

  Args:
    pad_value: the number put into padded positions. Keyed handlers also take a
      mapping from key to number, in which a missing key means 0, and need one
      if several keys are padded and not all with 0. 'auto' is the pad_token_id
      of a Hugging Face model for its token ids, and 0 elsewhere.
    side: 'right' to pad after the data, 'left' to pad before it, as decoders
      need for generation; where they would pad on the right, `generate` is an
      error, unless `verify` is False. Left padding shifts absolute positions: a
      model which has them, such as GPT-2, needs position_ids among the keys of
      each example. Rotary and relative positions need nothing.
    mask: the name of the mask argument of the model, None if it takes none.
      'auto' is 'attention_mask' for a Hugging Face model or an ONNX model that
      takes it, unless the handler has an inference_fn of the user's, and none
      elsewhere. The mask is an int64 tensor of shape (batch, longest), 1 for
      data and 0 for padding; for an ONNX model an array of the type that its
      input has. It is passed with every batch, ragged or not: by the tensor
      handlers as a keyword argument of the model call, by the keyed handlers
      as a key of each example, to an ONNX model as an input. A mask the
      examples carry already is kept, and padded with 0.
    sequence_keys: for the keyed handlers, the keys to pad; the mask is padded
      in any case. By default all keys whose tensors have a dimension. Within
      an example they must be of one length.
    per_token_outputs: the outputs of shape (batch, tokens, ...), which are to
      be cut back to the length of each example. True stands for all outputs,
      False for none, a tuple of names for these outputs of a model that
      returns a dict. 'auto' takes an output whose second dimension equals the
      padded length for a candidate. To tell such an output from one of
      constant size, the shortest example is run alone, once for each output
      of a worker's handler. Outputs of any other size pass as they are, such
      as those of `generate`, in which the padding of the prompt remains; but
      where the model itself is called, with 'auto' a size that the padding has
      changed is an error, unless `verify` is False. For encoder-decoder
      `generate`, whose output length depends on the content, pass False. With
      'auto' every dimension that follows the length is cut, as both of
      attention weights; otherwise the one next to the batch dimension.
    pad_to_multiple_of: the padded length is rounded up to a multiple of this,
      as accelerators and compilers want it: fewer shapes are compiled. With
      --experiments=smart_bucketing lengths are rounded up likewise.
    verify: whether results that depend on the other examples of a batch are an
      error. The floating-point outputs of the shortest example of a batch are
      compared with those that the model gives for it alone, in the first batch
      with padding, in later ones with twice as much, and in each that is longer
      than those before. Without a mask integer
      outputs are compared too. Leave it out for models that are random.

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
