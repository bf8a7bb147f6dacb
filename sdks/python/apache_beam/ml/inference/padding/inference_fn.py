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
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from apache_beam.ml.inference.base import PredictionResult
from apache_beam.ml.inference.padding.cut import OutputCutter
from apache_beam.ml.inference.padding.options import PaddingOptions
from apache_beam.ml.inference.padding.pad import KeyedTensorPadder
from apache_beam.ml.inference.padding.pad import TensorPadder

__all__ = ['padded', 'validate_padding_args']


def padded(
    inference_fn: Callable[..., Iterable[PredictionResult]],
    options: PaddingOptions | None,
    handler: str,
    keyed: bool = False) -> Callable[..., Iterable[PredictionResult]]:
  """Wraps an inference function so that it is called with padded tensors.

  Args:
    inference_fn: takes (batch, model, device, inference_args, model_id) and
      returns a `PredictionResult` for each element of the batch, in order.
    options: None gives `inference_fn` itself.
    handler: the name of the model handler, for error messages.
    keyed: whether the elements are dicts of tensors, not tensors.

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
  return _PaddedInferenceFn(inference_fn, options, handler, keyed)


def validate_padding_args(
    inference_fn: Callable, inference_args: Mapping[str, Any] | None):
  """Raises a ValueError if `inference_args` has the mask that padding adds."""
  if isinstance(inference_fn, _PaddedInferenceFn):
    inference_fn.validate_inference_args(inference_args)


class _PaddedInferenceFn:
  """An inference function on padded tensors. Pickles if the inner one does."""
  def __init__(self, inference_fn, options, handler, keyed):
    self.options = options
    self._inference_fn = inference_fn
    self._handler = handler
    self._mask = options.mask
    padder = KeyedTensorPadder if keyed else TensorPadder
    self._padder = padder(options, handler)
    self._cutter = OutputCutter(options, handler)

  def validate_inference_args(self, inference_args):
    # Those of a side input are not known before the call.
    if isinstance(inference_args, Mapping) and self._mask in inference_args:
      raise ValueError(
          f'{self._handler}: inference_args has {self._mask!r}, which '
          'PaddingOptions(mask=...) passes for each batch. Remove one of them.')

  def __call__(self, batch, model, device, inference_args=None, model_id=None):
    self.validate_inference_args(inference_args)
    if not batch:
      return self._inference_fn(batch, model, device, inference_args, model_id)

    def run(examples):
      return self._run(examples, model, device, inference_args, model_id)

    results, lengths = run(batch)

    # Several outputs of a batch may need it, so it is kept.
    @functools.cache
    def run_shortest_alone():
      shortest = lengths.index(min(lengths))
      (result, ), _ = run([batch[shortest]])
      return result.inference

    inferences = self._cutter.cut([r.inference for r in results],
                                  lengths,
                                  run_shortest_alone)
    return [
        result._replace(example=example, inference=inference)
        for example, result, inference in zip(batch, results, inferences)
    ]

  def _run(self, batch, model, device, inference_args, model_id):
    """Returns the results of padded examples, and the examples' lengths."""
    padded_batch, model_args, lengths = self._padder.pad(batch, device)
    if model_args:
      inference_args = {**(inference_args or {}), **model_args}
    results = list(
        self._inference_fn(
            padded_batch, model, device, inference_args, model_id))
    self._check_results(results, len(batch))
    return results, lengths

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
