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

from apache_beam.ml.inference.base import PredictionResult

try:
  import torch

  from apache_beam.ml.inference.padding import PaddingOptions
  from apache_beam.ml.inference.padding import padded
  from apache_beam.ml.inference.pytorch_inference import default_tensor_inference_fn
  from apache_beam.testing.inference.padding import CPU
  from apache_beam.testing.inference.padding import Recorder
  from apache_beam.testing.inference.padding import run
  from apache_beam.testing.inference.padding import shapes
  from apache_beam.testing.inference.padding import tensors
except ImportError:
  raise unittest.SkipTest('PyTorch dependencies are not installed')

Pair = namedtuple('Pair', ['tokens', 'label'])


class PerTokenOutputsTest(unittest.TestCase):
  def test_auto_cuts_on_either_side(self):
    for side in ('right', 'left'):
      results = run(
          tensors(1, 3, 2), Recorder(lambda x: x[..., None] * 2), side=side)
      self.assertEqual([r.inference.flatten().tolist() for r in results],
                       [[2], [2, 4, 6], [2, 4]])
      self.assertEqual(shapes(results), [(1, 1), (3, 1), (2, 1)])

  def test_auto_is_not_fooled_by_a_coincidence(self):
    # As many classes as the padded batch has tokens.
    model = Recorder(lambda x: torch.ones(len(x), 4))
    for lengths in [(2, 4), (2, 4), (3, 5), (4, 4)]:
      self.assertEqual(shapes(run(tensors(*lengths), model)), [(4, ), (4, )])

  def test_auto_asks_once_for_each_output(self):
    fn = padded(default_tensor_inference_fn, PaddingOptions(), 'Handler')
    model = Recorder(lambda x: {'a': x, 'b': torch.ones(len(x), 4)})
    for lengths in [(2, 2), (2, 4), (1, 4), (3, 4)]:
      results = fn(tensors(*lengths), model, CPU, {})
      for length, result in zip(lengths, results):
        self.assertEqual(result.inference['a'].shape, (length, ))
        self.assertEqual(result.inference['b'].shape, (4, ))
    # Four batches, and the shortest example of the second.
    self.assertEqual([len(c['x']) for c in model.calls], [2, 2, 1, 2, 2])

  def test_auto_lets_longer_outputs_pass(self):
    model = Recorder(lambda x: torch.cat([x, x[:, :2]], 1))
    for lengths in [(1, 3), (2, 4)]:
      n = max(lengths) + 2
      self.assertEqual(
          shapes(run(tensors(*lengths), model, side='left')), [(n, ), (n, )])

  def test_auto_notices_an_output_that_changes(self):
    fn = padded(default_tensor_inference_fn, PaddingOptions(), 'Handler')
    fn(tensors(1, 3), Recorder(lambda x: x), CPU, {})
    with self.assertRaisesRegex(
        ValueError, 'Handler: the output had one row per token .* 2 for .* 3'):
      fn(tensors(1, 3), Recorder(lambda x: x[:, :2]), CPU, {})

  def test_auto_cuts_all_dimensions_that_follow_the_length(self):
    # As attention weights, and the hidden states of all layers.
    model = Recorder(
        lambda x: {
            'attentions': (x[:, None, :, None] * x[:, None, None, :], ) * 2,
            'hidden': (x, x[..., None])
        })
    for side in ('right', 'left'):
      results = run(tensors(1, 3, 2), model, side=side)
      for length, result in zip((1, 3, 2), results):
        x = torch.arange(1, length + 1)
        for attention in result.inference['attentions']:
          self.assertEqual(attention.tolist(), [(x[:, None] * x).tolist()])
        self.assertEqual(result.inference['hidden'][0].tolist(), x.tolist())
        self.assertEqual(result.inference['hidden'][1].shape, (length, 1))

  def test_no_outputs(self):
    results = run(tensors(1, 3), Recorder(lambda x: x), per_token_outputs=False)
    self.assertEqual(shapes(results), [(3, ), (3, )])

  def test_all_outputs(self):
    results = run(tensors(1, 3), Recorder(lambda x: x), per_token_outputs=True)
    self.assertEqual(shapes(results), [(1, ), (3, )])

  def test_named_outputs_and_no_others(self):
    model = Recorder(lambda x: {'a': x, 'b': x, 'c': x.sum(1)})
    results = run(
        tensors(1, 3), model, per_token_outputs=('a', ))
    self.assertEqual([r.inference['a'].shape[0] for r in results], [1, 3])
    self.assertEqual([r.inference['b'].shape[0] for r in results], [3, 3])
    self.assertEqual(len(model.calls), 1)

  def test_wrong_declarations(self):
    for outputs, declared, message in [
        (lambda x: x, ('a', ), r"names \['a'\].* returned Tensor"),
        (lambda x: {'b': x}, ('a', ), r"names \['a'\].*outputs \['b'\]"),
        (lambda x: {'a': torch.ones(2, 7)}, ('a', ),
         "output 'a'.* is 7, not the padded length 3"),
        (lambda x: {'a': x, 'b': x.sum(1)}, True,
         "output 'b'.* is None, not the padded length 3"),
        (lambda x: torch.ones(2, 7), True, 'the output.* is 7, not'),
    ]:
      # Also where there is nothing to cut.
      for lengths in [(1, 3), (3, 3)]:
        with self.assertRaisesRegex(ValueError, 'Handler: .*' + message):
          run(tensors(*lengths), Recorder(outputs), per_token_outputs=declared)

  def test_lists_of_layers(self):
    for layers in (2, 4, 5):
      model = Recorder(lambda x, n=layers: {'layers': n * [x[..., None]]})
      results = run(tensors(1, 4), model)
      self.assertEqual([[tuple(layer.shape) for layer in r.inference['layers']]
                        for r in results],
                       [layers * [(1, 1)], layers * [(4, 1)]])

  def test_types_are_kept(self):
    def results_of(make):
      def inference_fn(batch, model, device, inference_args, model_id):
        return [PredictionResult(x, make(x)) for x in batch]

      fn = padded(inference_fn, PaddingOptions(), 'Handler')
      return [r.inference for r in fn(tensors(1, 3), None, CPU, {}, None)]

    self.assertEqual(results_of(lambda x: x.tolist()), [[1], [1, 2, 3]])
    self.assertEqual([v.tolist() for v in results_of(lambda x: x.numpy())],
                     [[1], [1, 2, 3]])
    self.assertEqual(
        results_of(lambda x: Pair(x.tolist(), 'label')),
        [Pair([1], 'label'), Pair([1, 2, 3], 'label')])
    self.assertEqual(
        results_of(lambda x: (3, x.tolist())), [(3, [1]), (3, [1, 2, 3])])
    self.assertEqual(
        results_of(lambda x: OrderedDict(a=x.tolist(), b=1)),
        [OrderedDict(a=[1], b=1), OrderedDict(a=[1, 2, 3], b=1)])
    self.assertEqual(results_of(lambda x: 'text'), ['text', 'text'])


if __name__ == '__main__':
  unittest.main()
