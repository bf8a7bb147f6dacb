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
from collections import OrderedDict
from collections import namedtuple

from hypothesis import given
from hypothesis import strategies as st

try:
  import torch

  from apache_beam.ml.inference.padding.outputs import ByExample
  from apache_beam.ml.inference.padding.outputs import split
except ImportError:
  raise unittest.SkipTest('PyTorch dependencies are not installed')

Pair = namedtuple('Pair', ['tokens', 'label'])

# Outputs of three examples: what a row holds is its number.
_ROWS = st.integers(0, 2).map(
    lambda dims: torch.arange(3).reshape(3, *[1] * dims).expand(
        3, *range(2, 2 + dims)))
_OUTPUTS = st.recursive(
    _ROWS, lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map(tuple), st.dictionaries(
            st.text('ab', min_size=1), inner, min_size=1)),
    max_leaves=6)


def _numbers(output):
  """The number of each example that an output holds something of."""
  if isinstance(output, dict):
    return set().union(*map(_numbers, output.values()))
  if isinstance(output, tuple):
    return set().union(*map(_numbers, output))
  return set(output.flatten().tolist())


class SplitTest(unittest.TestCase):
  @given(_OUTPUTS)
  def test_each_example_gets_its_own(self, outputs):
    parts = split(outputs, 3, 'Handler')
    self.assertEqual([_numbers(part) for part in parts], [{0}, {1}, {2}])
    for part in parts:
      self.assertIs(
          isinstance(part, torch.Tensor), isinstance(outputs, torch.Tensor))

  def test_types_are_kept(self):
    x = torch.arange(2)
    for outputs, expected in ((Pair(x, (x, x)), [Pair(0, (0, 0)),
                                                 Pair(1, (1, 1))]),
                              ([x, x, x], [[0, 0, 0], [1, 1, 1]]),
                              ({'a': (None, x), 'b': ()},
                               [{'a': (None, i), 'b': ()} for i in (0, 1)]),
                              (OrderedDict(a=x), [{'a': 0}, {'a': 1}])):
      self.assertEqual(split(outputs, 2, 'Handler'), expected)

  def test_a_list_of_results_is_one(self):
    boxes = [torch.ones(5, 4), torch.ones(7, 4)]
    self.assertIs(split(boxes, 2, 'Handler'), boxes)
    self.assertEqual(split([{'text': 'a'}], 1, 'Handler'), [{'text': 'a'}])

  def test_what_is_no_examples_own_is_refused(self):
    x, cache = torch.ones(3), object()
    for outputs, message in (
        ({'logits': x, 'past_key_values': cache},
         r"\['past_key_values'\] of the model is a object.*'use_cache': False"),
        ({'loss': torch.tensor(1.), 'logits': x},
         r"\['loss'\] of the model is a Tensor of shape \(\), which has no row"),
        ((x, torch.ones(4)), r'output \[1\] .* of shape \(4,\).*3 examples'),
        ({'layers': (x, 'text')}, r"\['layers'\]\[1\] .* a str"),
        (torch.ones(6, 2), r'the output of the model is a Tensor of shape \(6, 2'),
        (None, 'the output of the model is NoneType'),
        ([x, x, x], 'a list of 3 outputs of 3 rows each'),
        ((), 'the output of the model is tuple'),
    ):
      with self.subTest(message):
        with self.assertRaisesRegex(ValueError, f'Handler: .*{message}'):
          split(outputs, 3, 'Handler')

  def test_methods_of_the_model(self):
    class Model:
      weight = 3

      def __call__(self, x):
        return x, x

      def generate(self, x):
        return x

    model = ByExample(Model(), 2, 'Handler')
    x = torch.arange(2)
    self.assertEqual(model(x), [(0, 0), (1, 1)])
    self.assertEqual(model.generate(x), [0, 1])
    self.assertEqual(model.weight, 3)


if __name__ == '__main__':
  unittest.main()
