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

"""Tests of padding a batch of tensors, apart from any model."""

# pytype: skip-file

import unittest

from hypothesis import given
from hypothesis import strategies as st

try:
  import torch

  from apache_beam.ml.inference.padding import PaddingOptions
  from apache_beam.ml.inference.padding.pad import KeyedPadder
  from apache_beam.ml.inference.padding.pad import Padder
  from apache_beam.ml.inference.padding.torch_tensors import TorchTensors
except ImportError:
  raise unittest.SkipTest('PyTorch dependencies are not installed')

CPU = torch.device('cpu')


class PadderTest(unittest.TestCase):
  @given(
      st.lists(st.integers(1, 9), min_size=1, max_size=5),
      st.sampled_from(['left', 'right']),
      st.sampled_from([1, 4]))
  def test_what_the_mask_leaves_are_the_examples(
      self, lengths, side, multiple_of):
    options = PaddingOptions(
        side=side, mask='mask', pad_value=-1, pad_to_multiple_of=multiple_of)
    batch = [torch.arange(length) for length in lengths]
    padded = Padder(options, 'Handler', TorchTensors).pad(batch, CPU)
    self.assertEqual(lengths, padded.lengths)
    self.assertGreaterEqual(padded.padded_length, max(lengths))
    self.assertLess(padded.padded_length, max(lengths) + multiple_of)
    for tensor, padding, example in zip(
        padded.examples, padded.model_args['mask'], batch):
      self.assertEqual((padded.padded_length, ), tuple(tensor.shape))
      self.assertTrue(tensor[padding == 1].equal(example))
      self.assertTrue((tensor[padding == 0] == -1).all())
      edge = 0 if side == 'right' else -1
      self.assertEqual(1, padding[edge])

  def test_keys_have_a_padding_of_their_own(self):
    options = PaddingOptions(
        mask='mask', pad_value={'ids': 7}, sequence_keys=('ids', 'types'))
    batch = [{
        'ids': torch.ones(n), 'types': torch.ones(n), 'fixed': torch.ones(2)
    } for n in (1, 2)]
    padded = KeyedPadder(options, 'Handler', TorchTensors).pad(batch, CPU)
    short, _ = padded.examples
    self.assertEqual([1, 7], short['ids'].tolist())
    self.assertEqual([1, 0], short['types'].tolist())
    self.assertEqual([1, 1], short['fixed'].tolist())


if __name__ == '__main__':
  unittest.main()
