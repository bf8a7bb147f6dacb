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

try:
  import torch

  from apache_beam.ml.inference.padding import PaddingOptions
  from apache_beam.ml.inference.padding import padded
  from apache_beam.ml.inference.padding.verify import largest_difference
  from apache_beam.ml.inference.padding.verify import other_size
  from apache_beam.ml.inference.pytorch_inference import default_tensor_inference_fn
  from apache_beam.testing.inference.padding import CPU
  from apache_beam.testing.inference.padding import Recorder
  from apache_beam.testing.inference.padding import run
  from apache_beam.testing.inference.padding import run_keyed
  from apache_beam.testing.inference.padding import tensors
except ImportError:
  raise unittest.SkipTest('PyTorch dependencies are not installed')


class LargestDifferenceTest(unittest.TestCase):
  def test_rounding_is_none(self):
    for dtype, close, far in ((torch.float32, 1e-4, 2e-2),
                              (torch.float64, 1e-4, 2e-2),
                              (torch.bfloat16, 2e-2, 0.3)):
      x = torch.ones(3, dtype=dtype)
      self.assertIsNone(largest_difference(x * (1 + close), x))
      name, found = largest_difference((x, {'a': x * (1 + far)}), (x, {'a': x}))
      self.assertEqual(name, "[1]['a']")
      self.assertAlmostEqual(found, far, delta=far / 2)

  def test_integers_where_they_are_asked_for(self):
    x = torch.tensor([1, 2])
    self.assertIsNone(largest_difference(x, x + 1))
    self.assertEqual(largest_difference(x, x + 1, integers=True), ('', 1))
    self.assertIsNone(largest_difference(x, x, integers=True))

  def test_what_cannot_be_compared(self):
    x = torch.ones(2)
    for other in (torch.ones(3), 'text', None, object(), {'a': x}):
      self.assertIsNone(largest_difference(x, other))
    self.assertIsNone(largest_difference('a', 'b', integers=True))

  def test_constants_hide_no_difference(self):
    for constant in (-1e9, -1e4, torch.finfo(torch.float32).min):
      x = torch.tensor([1., 2., constant])
      name, found = largest_difference(x + torch.tensor([1., 0., 0.]), x)
      self.assertEqual((name, found), ('', 1.0))
      rounding = torch.tensor([1.0001, 1.0001, 1.])
      self.assertIsNone(largest_difference(x * rounding, x))
    # A large value that is rounded is none.
    x = torch.tensor([1., 2e4])
    self.assertIsNone(largest_difference(x + 1, x))

  def test_shapes(self):
    x = torch.ones(2)
    self.assertIsNone(other_size((x, {'a': x}), (x + 1, {'a': x})))
    self.assertEqual(
        other_size((x, {
            'a': torch.ones(3)
        }), (x, {
            'a': x
        })), ("[1]['a']", (3, ), (2, )))

  def test_what_is_no_number(self):
    x = torch.tensor([1., float('nan'), float('-inf')])
    self.assertIsNone(largest_difference(x, x))
    name, found = largest_difference(x, torch.tensor([1., 2., 3.]))
    self.assertEqual((name, found), ('', float('inf')))


class LastState(torch.nn.Module):
  """An LSTM that answers with its last state, which padding changes."""
  def __init__(self):
    super().__init__()
    torch.manual_seed(0)
    self.lstm = torch.nn.LSTM(1, 4, batch_first=True)

  def forward(self, x):
    _, (state, _) = self.lstm(x[..., None].float())
    return state[-1]


class VerifyTest(unittest.TestCase):
  def _refused(self, *args, **options):
    with self.assertRaisesRegex(
        ValueError, 'Handler: the results of .* PaddingOptions.verify=False.'):
      run(*args, verify=True, **options)

  def test_results_that_depend_on_the_batch(self):
    for model in (
        LastState(),
        Recorder(lambda x: x.float().mean(1)),
        # The class of the largest: an integer, and there is no mask.
        Recorder(lambda x: (x == 9).sum(1))):
      for side in ('right', 'left'):
        self._refused(tensors(2, 5), model, side=side, pad_value=9)
        run(tensors(2, 5), model, side=side, pad_value=9)
        # Nothing is padded.
        run(tensors(3, 3), model, side=side, pad_value=9, verify=True)

  def test_rows_of_padding_that_are_none_of_tokens(self):
    # As the frames of speech: half as many as there are samples.
    model = Recorder(lambda x: torch.ones(len(x), x.shape[1] // 2))
    with self.assertRaisesRegex(
        ValueError,
        r'the shape \(4,\) in a batch and \(1,\) alone.*'
        r'per_token_outputs=False'):
      run(tensors(2, 8), model, verify=True)
    run(tensors(2, 8), model, verify=True, per_token_outputs=False)

  def test_a_model_that_changes_with_the_length_of_its_batch(self):
    # As some rotary positions do, however little of it is padding.
    model = Recorder(lambda x: x[:, :1] * (2. if x.shape[1] > 16 else 1.))
    fn = padded(default_tensor_inference_fn, PaddingOptions(), 'Handler')
    fn(tensors(2, 14), model, CPU, {})
    with self.assertRaisesRegex(ValueError, 'depend on the examples'):
      fn(tensors(16, 18), model, CPU, {})

  def test_keyed_tensors_too(self):
    batch = [{'x': x} for x in tensors(2, 5)]
    with self.assertRaisesRegex(ValueError, r"output \['mean'\] differs by"):
      run_keyed(
          batch, Recorder(lambda x: {'mean': x.float().mean(1)}), verify=True)

  def test_integers_under_a_mask_are_left_to_the_model(self):
    # Near ties make another class of the same scores.
    run(
        tensors(2, 5),
        Recorder(lambda x: (x == 0).sum(1)),
        mask='mask',
        verify=True)

  def test_each_time_until_it_holds_and_again_where_more_is_padding(self):
    calls = []

    def model(x):
      calls.append(tuple(x.shape))
      # Wrong beyond three positions of padding.
      return x.float().sum(1) + (x.shape[1] > 7)

    fn = padded(default_tensor_inference_fn, PaddingOptions(), 'Handler')
    for lengths, expected in (((4, 5), 1), ((4, 5), 0), ((3, 4), 0),
                              ((3, 6), 1), ((3, 6), 0), ((6, 7), 1)):
      before = len(calls)
      fn(tensors(*lengths), model, CPU, {})
      self.assertEqual(len(calls) - before - 1, expected, lengths)
    for _ in range(2):
      # A bundle that is retried fails again.
      with self.assertRaisesRegex(ValueError, 'depend on the examples'):
        padded(default_tensor_inference_fn, PaddingOptions(),
               'Handler')(tensors(1, 9), model, CPU, {})


if __name__ == '__main__':
  unittest.main()
