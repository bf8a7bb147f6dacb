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

import unittest

from apache_beam.ml.inference.base import PredictionResult

try:
  import torch

  from apache_beam.ml.inference.padding import PaddingOptions
  from apache_beam.ml.inference.padding import padded
  from apache_beam.testing.inference.padding import CPU
  from apache_beam.testing.inference.padding import Recorder
  from apache_beam.testing.inference.padding import run
  from apache_beam.testing.inference.padding import run_keyed
  from apache_beam.testing.inference.padding import tensors
except ImportError:
  raise unittest.SkipTest('PyTorch dependencies are not installed')


class TensorPaddingTest(unittest.TestCase):
  def test_sides_and_values(self):
    for side, expected in [('right', [[1, 9, 9], [1, 2, 3]]),
                           ('left', [[9, 9, 1], [1, 2, 3]])]:
      model = Recorder()
      run(tensors(1, 3), model, side=side, pad_value=9)
      self.assertEqual(model.calls[0]['x'].tolist(), expected)

  def test_further_dimensions(self):
    for side in ('right', 'left'):
      model = Recorder()
      run([torch.ones(2, 3, 4), torch.ones(5, 3, 4)], model, side=side)
      self.assertEqual(model.calls[0]['x'].shape, (2, 5, 3, 4))
      self.assertEqual(model.calls[0]['x'][0].sum(), 2 * 3 * 4)

  def test_dtypes_are_kept(self):
    for dtype in (torch.int8, torch.int64, torch.float16, torch.float64):
      for side in ('right', 'left'):
        model = Recorder()
        run(tensors(1, 3, dtype=dtype), model, side=side)
        self.assertEqual(model.calls[0]['x'].dtype, dtype)

  def test_equal_lengths_are_not_copied(self):
    seen = []

    def inference_fn(batch, model, device, inference_args, model_id):
      seen.extend(batch)
      return [PredictionResult(x, x) for x in batch]

    batch = tensors(3, 3)
    padded(inference_fn, PaddingOptions(), 'Handler')(batch, None, CPU, {}, '')
    for example, tensor in zip(batch, seen):
      self.assertIs(example, tensor)

  def test_multiples(self):
    for side, lengths, expected in [
        ('right', (1, 3), [[1, 0, 0, 0], [1, 2, 3, 0]]),
        ('left', (2, 2), [[0, 0, 1, 2], [0, 0, 1, 2]]),
        ('right', (4, 4), [[1, 2, 3, 4], [1, 2, 3, 4]]),
        ('right', (5, ), [[1, 2, 3, 4, 5, 0, 0, 0]]),
    ]:
      model = Recorder(lambda x: x)
      results = run(
          tensors(*lengths),
          model,
          side=side,
          mask='mask',
          pad_to_multiple_of=4)
      padded_batch, mask = model.calls[0]['x'], model.calls[0]['mask']
      self.assertEqual(padded_batch.tolist(), expected)
      self.assertEqual(mask.tolist(), (padded_batch > 0).int().tolist())
      for result, length in zip(results, lengths):
        self.assertEqual(result.inference.tolist(), [*range(1, length + 1)])

  def test_mask(self):
    for side, lengths, expected in [
        ('right', (1, 3), [[1, 0, 0], [1, 1, 1]]),
        ('left', (1, 3), [[0, 0, 1], [1, 1, 1]]),
        ('right', (2, 2), [[1, 1], [1, 1]]),
        ('left', (2, ), [[1, 1]]),
    ]:
      model = Recorder()
      run(tensors(*lengths), model, {'other': 5}, side=side, mask='mask')
      self.assertEqual(model.calls[0]['mask'].tolist(), expected)
      self.assertEqual(model.calls[0]['mask'].dtype, torch.int64)
      self.assertEqual(model.calls[0]['other'], 5)

  def test_bad_elements_are_named(self):
    for batch, error, message in [
        ([torch.ones(2, 3), torch.ones(1, 4)],
         ValueError,
         r'element 1 .* shape \(1, 4\), but element 0 .* shape \(2, 3\)'),
        ([torch.ones(2, 3), torch.ones(2)], ValueError, r'element 1 .* \(2,\)'),
        ([torch.ones(2), torch.ones(3).int()],
         ValueError,
         'element 1 .* torch.int32, but element 0 .* torch.float32'),
        ([torch.ones(2), torch.tensor(1.)],
         ValueError,
         'element 1 of the batch has no dimension to pad'),
        ([torch.ones(2), torch.ones(0)], ValueError, 'element 1 .*length 0'),
        ([torch.ones(2), [1, 2]], TypeError, 'element 1 .*is a builtins.list'),
        ([torch.ones(2), {'a': torch.ones(2)}], TypeError, 'builtins.dict'),
    ]:
      with self.subTest(message):
        with self.assertRaisesRegex(error, 'Handler: .*' + message):
          run(batch, Recorder())

  def test_one_bad_element_alone_is_refused_as_well(self):
    for bad in (torch.ones(0), torch.tensor(1.)):
      with self.assertRaisesRegex(ValueError, 'element 0 of the batch'):
        run([bad], Recorder())

  def test_values_the_dtype_cannot_hold(self):
    for value, dtype in [(.5, torch.int64), (float('nan'), torch.int64),
                         (300, torch.uint8), (-1, torch.uint8),
                         (2, torch.bool), (1e9, torch.float16)]:
      # Also where there is nothing to pad.
      for lengths in [(1, 2), (2, 2)]:
        with self.assertRaisesRegex(ValueError, f'pad_value {value} cannot'):
          run([torch.ones(n, dtype=dtype) for n in lengths],
              Recorder(),
              pad_value=value)
    run([torch.ones(n) for n in (1, 2)], Recorder(), pad_value=float('-inf'))


class KeyedTensorPaddingTest(unittest.TestCase):
  def batch(self, *lengths, **more):
    return [{'x': x, **more} for x in tensors(*lengths)]

  def test_value_per_key(self):
    model = Recorder()
    batch = [{'x': x, 'types': x} for x in tensors(1, 3)]
    results = run_keyed(batch, model, pad_value={'x': 7})
    self.assertEqual(model.calls[0]['x'].tolist(), [[1, 7, 7], [1, 2, 3]])
    self.assertEqual(model.calls[0]['types'].tolist(), [[1, 0, 0], [1, 2, 3]])
    for example, result in zip(batch, results):
      self.assertIs(result.example, example)

  def test_mask_becomes_a_key(self):
    for lengths, expected in [((1, 3), [[1, 0, 0], [1, 1, 1]]),
                              ((2, 2), [[1, 1], [1, 1]])]:
      model = Recorder()
      batch = self.batch(*lengths)
      run_keyed(batch, model, mask='mask', pad_value=7)
      self.assertEqual(model.calls[0]['mask'].tolist(), expected)
      self.assertNotIn('mask', batch[0])

  def test_mask_of_the_examples_is_kept(self):
    for keys in (None, ('x', )):
      model = Recorder()
      batch = [{
          'mask': torch.tensor([0]), 'x': torch.tensor([5])
      }, {
          'mask': torch.tensor([0, 1]), 'x': torch.tensor([5, 6])
      }]
      run_keyed(batch, model, mask='mask', pad_value=7, sequence_keys=keys)
      self.assertEqual(model.calls[0]['mask'].tolist(), [[0, 0], [0, 1]])
      self.assertEqual(model.calls[0]['x'].tolist(), [[5, 7], [5, 6]])

  def test_other_keys_are_left_alone(self):
    model = Recorder()
    batch = self.batch(1, 3, features=torch.ones(4))
    run_keyed(
        batch, model, sequence_keys=('x', ))
    self.assertEqual(model.calls[0]['x'].shape, (2, 3))
    self.assertEqual(model.calls[0]['features'].shape, (2, 4))

  def test_scalars_are_left_alone(self):
    model = Recorder()
    run_keyed(self.batch(1, 3, scale=torch.tensor(2.)), model)
    self.assertEqual(model.calls[0]['scale'].tolist(), [2., 2.])

  def test_bad_elements_are_named(self):
    one = {'x': torch.ones(2)}
    for batch, options, error, message in [
        (self.batch(3, features=torch.ones(4)), {},
         ValueError,
         r"'features' of element 0 .* length 4, but 'x' has length 3.*"
         r"sequence_keys="),
        ([one, {'y': torch.ones(2)}], {}, ValueError, r"element 1 .*\['y'\]"),
        ([one, {}], {}, ValueError, r'element 1 .* the keys \[\]'),
        ([{}], {}, ValueError, 'element 0 .* for any key'),
        ([one], {'sequence_keys': ('ids', )},
         ValueError, r"for \['ids'\].*keys are \['x'\]"),
        ([one], {'sequence_keys': ('x', 'ids')},
         ValueError, r"for \['ids'\].*keys are \['x'\]"),
        ([one], {'pad_value': {'ids': 1}},
         ValueError, r"pad_value names \['ids'\].* \['x'\]"),
        ([{'x': torch.tensor(1)}], {'sequence_keys': ('x', )},
         ValueError, "'x' of element 0 .* no dimension"),
        ([{'x': torch.ones(2), 'y': torch.ones(2)}], {'pad_value': 7},
         ValueError, r"pad_value 7 would pad each of \['x', 'y'\]"),
        ([{'x': torch.ones(2), 'f': torch.ones(n)} for n in (2, 3)],
         {'sequence_keys': ('x', )},
         ValueError, r"'f' of element 1 .*\(3,\).*'f' of element 0 .*\(2,\)"),
        ([one, {'x': torch.ones(0)}], {}, ValueError, "'x' of element 1 .*"),
        ([dict(one, s=torch.ones(2)), dict(one, s=torch.tensor(1.))], {},
         ValueError, r"'s' of element 1 .*\(\), but .*\(2,\)"),
        ([one, {'x': [1]}], {}, TypeError, "'x' of element 1 .*builtins.list"),
        ([one, torch.ones(2)], {}, TypeError, 'element 1 .* is a Tensor'),
    ]:
      with self.subTest(message):
        with self.assertRaisesRegex(error, 'Handler: .*' + message):
          run_keyed(batch, Recorder(), **options)


if __name__ == '__main__':
  unittest.main()
