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

# pytype: skip-file

import contextlib
import importlib.machinery
import importlib.util
import sys
import types
import typing
import unittest
from collections.abc import Sequence
from unittest import mock

try:
  import torch
  import transformers.pipelines  # Loads all that the module imports.
except ImportError:
  raise unittest.SkipTest('PyTorch and transformers are not installed.')

_MODULE = 'apache_beam.ml.inference.huggingface_inference'


@contextlib.contextmanager
def _tensorflow_module(module):
  """Lets `import tensorflow` give `module`, or fail where it is None."""
  # Not mock.patch.dict: it would also drop what is imported in between.
  missing = object()
  before = sys.modules.get('tensorflow', missing)
  sys.modules['tensorflow'] = module
  try:
    yield
  finally:
    if before is missing:
      del sys.modules['tensorflow']
    else:
      sys.modules['tensorflow'] = before


def _load_copy(tensorflow):
  """Executes the module afresh, without replacing the imported one."""
  spec = importlib.util.find_spec(_MODULE)
  module = importlib.util.module_from_spec(spec)
  with _tensorflow_module(tensorflow):
    spec.loader.exec_module(module)
  return module


def _without_tensorflow():
  return _load_copy(None)


class _FakeTFTensor:
  def __init__(self, value):
    self.value = value


class _FakeTFAutoModel:
  pass


def _fake_tensorflow():
  fake = types.ModuleType('tensorflow')
  fake.__spec__ = importlib.machinery.ModuleSpec('tensorflow', None)
  fake.Tensor = _FakeTFTensor
  fake.stack = lambda tensors, axis: [t.value for t in tensors]
  return fake


def _with_fake_tensorflow():
  # Importing transformers.pipelines may replace transformers in sys.modules.
  with mock.patch.object(sys.modules[transformers.__name__],
                         'TFAutoModel',
                         _FakeTFAutoModel,
                         create=True):
    return _load_copy(_fake_tensorflow())


class Doubler(torch.nn.Module):
  def forward(self, x):
    return 2 * x


class WithoutTensorFlowTest(unittest.TestCase):
  def test_imports_and_exports_every_handler(self):
    module = _without_tensorflow()
    for name in module.__all__:
      self.assertTrue(hasattr(module, name), name)

  def test_keyed_handler_runs_torch(self):
    handler = _without_tensorflow().HuggingFaceModelHandlerKeyedTensor(
        model_uri='unused', model_class=Doubler, framework='pt')
    results = handler.run_inference([{'x': torch.tensor([1., 2.])}], Doubler())
    self.assertEqual([r.inference.tolist() for r in results], [[2., 4.]])

  def test_tensor_handler_takes_the_torch_path(self):
    handler = _without_tensorflow().HuggingFaceModelHandlerTensor(
        model_uri='unused', model_class=Doubler)
    results = handler.run_inference([torch.tensor([1., 2.])], Doubler())
    self.assertEqual([r.inference.tolist() for r in results], [[2., 4.]])

  def test_tf_framework_is_refused_at_construction(self):
    module = _without_tensorflow()
    with self.assertRaisesRegex(
        ImportError,
        r"HuggingFaceModelHandlerKeyedTensor: framework='tf'.*"
        r"Install tensorflow, or pass framework='pt'"):
      module.HuggingFaceModelHandlerKeyedTensor(
          model_uri='unused', model_class=Doubler, framework='tf')


class WithTensorFlowTest(unittest.TestCase):
  def test_names_are_those_of_tensorflow(self):
    module = _with_fake_tensorflow()
    self.assertIs(module.TFAutoModel, _FakeTFAutoModel)
    self.assertIs(module.tf.Tensor, _FakeTFTensor)
    hints = typing.get_type_hints(
        module.HuggingFaceModelHandlerTensor.run_inference)
    self.assertEqual(
        hints['batch'], Sequence[typing.Union[_FakeTFTensor, torch.Tensor]])

  def test_tf_framework_runs(self):
    handler = _with_fake_tensorflow().HuggingFaceModelHandlerKeyedTensor(
        model_uri='unused', model_class=_FakeTFAutoModel, framework='tf')
    batch = [{'x': _FakeTFTensor(1)}, {'x': _FakeTFTensor(2)}]
    results = handler.run_inference(batch, lambda x: [-v for v in x])
    self.assertEqual([r.inference for r in results], [-1, -2])

  def test_tensor_handler_takes_the_tf_path(self):
    handler = _with_fake_tensorflow().HuggingFaceModelHandlerTensor(
        model_uri='unused', model_class=_FakeTFAutoModel)
    results = handler.run_inference([_FakeTFTensor(3)], lambda x: [-x[0]])
    self.assertEqual([r.inference for r in results], [-3])


if __name__ == '__main__':
  unittest.main()
