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

"""The inference function of a model handler, on padded tensors."""

# pytype: skip-file

import functools
import threading
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from apache_beam.ml.inference.base import PredictionResult
from apache_beam.ml.inference.padding import model as models
from apache_beam.ml.inference.padding.cut import OutputCutter
from apache_beam.ml.inference.padding.options import PaddingOptions
from apache_beam.ml.inference.padding.outputs import ByExample
from apache_beam.ml.inference.padding.pad import KeyedPadder
from apache_beam.ml.inference.padding.pad import Padder
from apache_beam.ml.inference.padding.verify import largest_difference
from apache_beam.ml.inference.padding.verify import other_size

# Whose inference functions call the model, or a method of it, with one batch of
# tensors, and hand on its outputs.
_OF_BEAM = (
    'apache_beam.ml.inference.huggingface_inference',
    'apache_beam.ml.inference.pytorch_inference')
# Those that call the model itself.
_FORWARD = frozenset((
    'default_tensor_inference_fn',
    'default_keyed_tensor_inference_fn',
    '_default_inference_fn_torch',
    '_run_inference_torch_keyed_tensor'))


def padded(
    inference_fn: Callable[..., Iterable[PredictionResult]],
    options: PaddingOptions | None,
    handler: str,
    keyed: bool = False,
    tensors: type | None = None) -> Callable[..., Iterable[PredictionResult]]:
  """Wraps an inference function so that it is called with padded tensors.

  Args:
    inference_fn: takes (batch, model, device, inference_args, model_id) and
      returns a `PredictionResult` for each element of the batch, in order.
    options: None gives `inference_fn` itself.
    handler: the name of the model handler, for error messages.
    keyed: whether the elements are dicts of tensors, not tensors.
    tensors: the operations on them; by default `TorchTensors`.

  Raises:
    TypeError: if `options` is not a `PaddingOptions`.
    ValueError: if `options` has a setting for keyed tensors and `keyed` is
      False.
  """
  if options is None:
    return inference_fn
  if not isinstance(options, PaddingOptions):
    raise TypeError(
        f'{handler}: padding must be a PaddingOptions, not {options!r}.')
  if tensors is None:
    # Imported here for handlers of what is not PyTorch's.
    from apache_beam.ml.inference.padding.torch_tensors import TorchTensors
    tensors = TorchTensors
  return _PaddedInferenceFn(inference_fn, options, handler, keyed, tensors)


def validate_padding_args(
    inference_fn: Callable, inference_args: Mapping[str, Any] | None):
  """Raises a ValueError if `inference_args` has the mask that padding adds."""
  if isinstance(inference_fn, _PaddedInferenceFn):
    inference_fn.validate_inference_args(inference_args, inference_fn.mask)


class _PaddedInferenceFn:
  """An inference function on padded tensors. Pickles if the inner one does."""
  def __init__(self, inference_fn, options, handler, keyed, tensors):
    self.options = options
    self.mask = None if options.mask == 'auto' else options.mask
    self._inference_fn = inference_fn
    self._handler = handler
    self._keyed = keyed
    padder = KeyedPadder if keyed else Padder
    self._padder = padder(options, handler, tensors)
    self._cutter = OutputCutter(options, handler)
    self._is_beams = getattr(inference_fn, '__module__', None) in _OF_BEAM
    self._is_forward = (
        getattr(inference_fn, 'is_forward', False) or
        self._is_beams and inference_fn.__name__ in _FORWARD)
    self.__setstate__(self.__dict__)

  def __getstate__(self):
    return {
        name: value
        for name, value in self.__dict__.items() if name not in ('_local', )
    }

  def __setstate__(self, state):
    self.__dict__.update(state)
    # By thread: the padder of the model that it saw last, and how much padding
    # was verified.
    self._local = threading.local()

  def validate_inference_args(self, inference_args, mask):
    # Those of a side input are not known before the call.
    if isinstance(inference_args, Mapping) and mask in inference_args:
      raise ValueError(
          f'{self._handler}: inference_args has {mask!r}, which '
          'PaddingOptions(mask=...) passes for each batch. Remove one of them.')

  def __call__(self, batch, model, device, inference_args=None, model_id=None):
    self.validate_inference_args(inference_args, self.mask)
    if not batch:
      return self._inference_fn(batch, model, device, inference_args, model_id)
    padder, mask = self._padder_for(model)
    self.validate_inference_args(inference_args, mask)

    def run(examples, is_alone):
      padded_batch = padder.pad(examples, device, is_alone)
      args = {**(inference_args or {}), **padded_batch.model_args}
      return self._run(padded_batch, model, device, args, model_id)

    results, lengths, padded_length = run(batch, False)
    shortest = lengths.index(min(lengths))

    # Several outputs of a batch may need it, so it is kept.
    @functools.cache
    def run_shortest_alone():
      (result, ), _, _ = run([batch[shortest]], True)
      return result.inference

    inferences = self._cutter.cut([r.inference for r in results],
                                  lengths,
                                  padded_length,
                                  run_shortest_alone)
    if self.options.verify and self._is_new(lengths[shortest], padded_length):
      self._verify(inferences[shortest], run_shortest_alone, model, mask)
      self._verified(lengths[shortest], padded_length)
    return [
        result._replace(example=example, inference=inference)
        for example, result, inference in zip(batch, results, inferences)
    ]

  def _padder_for(self, model):
    """The padder for a model, and the name of its mask."""
    known, padder, mask = getattr(self._local, 'known', (None, None, None))
    if padder is None or known is not model:
      mask = self.options.mask
      if mask == 'auto':
        calls_it = self._is_beams or self._is_forward
        mask = models.mask_of(model) if calls_it else None
      elif mask is not None and self._is_forward:
        models.check_mask(model, mask, self._handler)
      padder = self._padder.with_model(
          mask, models.mask_dtype(model, mask), *models.pad_value_of(model))
      self._local.known = model, padder, mask
      self._local.verified = 0.0, 0
    return padder, mask

  def _run(self, padded_batch, model, device, args, model_id):
    """The results of padded examples, their lengths and the padded length."""
    examples, _, lengths, padded_length = padded_batch
    if self._is_beams:
      if self._is_forward and models.takes(model, 'use_cache'):
        # A cache belongs to a batch.
        args = {'use_cache': False, **args}
      pads_right = (
          self.options.verify and self.options.side == 'right' and
          min(lengths) < padded_length)
      model = ByExample(model, len(examples), self._handler, pads_right)
    results = list(self._inference_fn(examples, model, device, args, model_id))
    self._check_results(results, len(examples))
    return results, lengths, padded_length

  def _check_results(self, results, expected):
    if len(results) != expected:
      raise ValueError(
          f'{self._handler}: with padding the inference function must return '
          f'one PredictionResult for each of the {expected} elements, but it '
          f'returned {len(results)}.')
    for result in results:
      if not isinstance(result, PredictionResult):
        raise TypeError(
            f'{self._handler}: with padding the inference function must return '
            f'PredictionResults, not {type(result).__name__}.')

  def _is_new(self, length, padded_length):
    """Whether more of an example is padding than was compared before, or it is
    padded to more: some models change with the length of a batch."""
    padding, longest = self._local.verified
    return length < padded_length and (
        1 - length / padded_length > 2 * padding or padded_length > longest)

  def _verified(self, length, padded_length):
    padding, longest = self._local.verified
    self._local.verified = (
        max(padding, 1 - length / padded_length), max(longest, padded_length))

  def _verify(self, together, run_shortest_alone, model, mask):
    """Compares a result with that of its example alone.

    Raises:
      ValueError: if they differ.
    """
    alone = run_shortest_alone()
    found = largest_difference(together, alone, mask is None)
    if found is None:
      self._check_sizes(together, alone)
      return
    name, difference = found
    raise ValueError(
        f'{self._handler}: the results of {type(model).__name__} for an example '
        'depend on the examples that it is batched with: '
        f'{f"the output {name}" if name else "the output"} differs by up to '
        f'{difference:.3g} from that for the example alone. '
        f'{_remedy(model, mask)} '
        'If the model is random, or the difference is meant, pass '
        'PaddingOptions(verify=False).')

  def _check_sizes(self, together, alone):
    """Refuses rows of padding that nobody said are to stay.

    What is generated has other lengths, as a function of the user's may give.
    """
    if self.options.per_token_outputs != 'auto' or not self._is_forward:
      return
    found = other_size(together, alone)
    if found is not None:
      name, size, size_alone = found
      raise ValueError(
          f'{self._handler}: {f"the output {name}" if name else "the output"} of '
          f'an example has the shape {size} in a batch and {size_alone} alone, '
          'so that it has rows of padding, and their number is not that of the '
          'tokens. Pass an inference_fn that cuts it, or '
          'PaddingOptions(per_token_outputs=False) to keep them.')


def _remedy(model, mask):
  if mask is None:
    names = ', '.join(models.masks_of(model)) or 'attention_mask, for instance'
    return (
        'Name the argument of the model that hides padding in '
        f'PaddingOptions(mask=...): {names}.')
  return (
      f'It is given the mask {mask!r}. It may look for another pad_value, such '
      'as the pad_token_id of its config, need padding on the other side, or '
      'position_ids among the keys of each example.')
