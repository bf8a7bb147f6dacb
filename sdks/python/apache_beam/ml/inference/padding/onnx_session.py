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

"""ONNX Runtime sessions on padded batches of arrays, or of dicts of arrays."""

# pytype: skip-file

import os
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy

from apache_beam.ml.inference import utils
from apache_beam.ml.inference.base import PredictionResult
from apache_beam.ml.inference.padding import model as models
from apache_beam.ml.inference.padding.inference_fn import padded
from apache_beam.ml.inference.padding.numpy_arrays import NumpyArrays
from apache_beam.ml.inference.padding.options import PaddingOptions
from apache_beam.ml.inference.padding.outputs import split


class PaddedSessionFn:
  """The inference function of a handler of ONNX models, on padded arrays.

  Args:
    inference_fn: the one of the user, which takes (session, batch,
      inference_args); None to give the session its inputs by their names.
    options: how arrays are padded.
    handler: the name of the model handler, for error messages.

  Raises:
    TypeError: if `options` is not a `PaddingOptions`.
  """
  def __init__(
      self,
      inference_fn: Callable | None,
      options: PaddingOptions,
      handler: str):
    inner = _UserFn(inference_fn) if inference_fn else _SessionFn(handler)
    self._args = inner, options, handler
    self._of_dicts = padded(*self._args, keyed=True, tensors=NumpyArrays)
    self.options = options

  def __call__(
      self,
      batch: Sequence[Any],
      session: Any,
      inference_args: Mapping[str, Any] | None = None
  ) -> Iterable[PredictionResult]:
    fn = self._of_dicts
    if batch and not isinstance(batch[0], Mapping):
      fn = self._of_arrays()
    return fn(batch, session, None, inference_args)

  def _of_arrays(self):
    # Made when it is needed, as it refuses options that dicts alone can have.
    if '_made' not in self.__dict__:
      self._made = padded(*self._args, tensors=NumpyArrays)
    return self._made


class _UserFn:
  """An inference function of a user, with the signature of the other handlers."""
  def __init__(self, inference_fn):
    self._inference_fn = inference_fn

  def __call__(self, batch, session, device, inference_args, model_id=None):
    predictions = self._inference_fn(session, batch, inference_args or None)
    return utils._convert_to_result(batch, predictions)


class _SessionFn:
  """Runs a session on arrays of one shape.

  Arrays are its first input, and their results its first output, as without
  padding. Dicts of arrays name the inputs, and results are dicts that name the
  outputs.
  """
  # It hands all that it gets to the model.
  is_forward = True

  def __init__(self, handler):
    self._handler = handler

  def __call__(self, batch, session, device, inference_args, model_id=None):
    first = batch[0]
    if isinstance(first, Mapping):
      inputs = {name: numpy.stack([e[name] for e in batch]) for name in first}
    else:
      inputs = {session.get_inputs()[0].name: numpy.stack(batch)}
    inputs.update(inference_args or {})
    self._check(inputs, session)
    outputs = session.run(None, inputs)
    if isinstance(first, Mapping):
      names = [output.name for output in session.get_outputs()]
      outputs = dict(zip(names, outputs))
    else:
      outputs = outputs[0]
    inferences = split(outputs, len(batch), self._handler)
    return [PredictionResult(*pair) for pair in zip(batch, inferences)]

  def _check(self, inputs, session):
    """Names what the session would refuse, or take for something else."""
    expected = {entry.name: entry for entry in session.get_inputs()}
    missing = [name for name in expected if name not in inputs]
    unknown = [name for name in inputs if name not in expected]
    if missing or unknown:
      raise ValueError(
          f'{self._handler}: the model has the inputs {list(expected)}, but got '
          f'{list(inputs)}: ' +
          '; '.join(([f'{missing} missing'] if missing else []) +
                    ([f'{unknown} unknown'] if unknown else [])) +
          '. Let the keys of each example be the inputs of the model, but for '
          'the one that PaddingOptions(mask=...) names.')
    for name, array in inputs.items():
      self._check_input(name, numpy.asarray(array), expected[name])

  def _check_input(self, name, array, expected):
    dtype = models.input_dtype(expected)
    if hasattr(numpy, dtype) and array.dtype.name != dtype:
      raise ValueError(
          f'{self._handler}: the input {name!r} of the model takes {dtype}, but '
          f'the examples have {array.dtype.name}. Convert them with '
          f'.astype({dtype!r}).')
    shape = expected.shape
    if shape is None:
      return
    if len(shape) != array.ndim or any(
        isinstance(size, int) and size != got
        for size, got in zip(shape, array.shape)):
      raise ValueError(
          f'{self._handler}: the input {name!r} of the model takes the shape '
          f'{shape}, but a padded batch has {list(array.shape)}. Give examples '
          'without a dimension for the batch, and export the model with dynamic '
          'sizes. For a model of one fixed length pass PaddingOptions('
          'pad_to_multiple_of=LENGTH, verify=False, per_token_outputs=...).')


def num_bytes(batch: Sequence[Any]) -> int:
  """The bytes of a batch of arrays, or of dicts of arrays."""
  return sum(
      array.nbytes for example in batch for array in (
          example.values() if isinstance(example, Mapping) else (example, )))


def usable_cpus() -> int:
  """How many CPUs this process may use: those that it is bound to, and no more
  than the quota of its container."""
  count = os.cpu_count() or 1
  if hasattr(os, 'sched_getaffinity'):
    count = len(os.sched_getaffinity(0))
  try:
    # https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files
    with open('/sys/fs/cgroup/cpu.max', encoding='ascii') as file:
      quota, period = file.read().split()
    count = min(count, -(-int(quota) // int(period)))
  except (OSError, ValueError):
    # There is no quota.
    pass
  return max(count, 1)
