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

"""Tests of OnnxModelHandlerNumpy with PaddingOptions."""

# pytype: skip-file

import os
import pickle
import subprocess
import sys
import tempfile
import unittest

import numpy
from hypothesis import given
from hypothesis import strategies as st

import apache_beam as beam
from apache_beam.ml.inference.base import KeyedModelHandler
from apache_beam.ml.inference.base import RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.transforms.batching.options import BatchingOptions
from apache_beam.transforms.batching.policy.least_cost import Cost

try:
  import onnx
  from onnx.parser import parse_model

  from apache_beam.ml.inference.onnx_inference import OnnxModelHandlerNumpy
  from apache_beam.ml.inference.padding import PaddingOptions
  from apache_beam.ml.inference.padding.onnx_session import usable_cpus
except ImportError:
  raise unittest.SkipTest('ONNX dependencies are not installed')

# The mean of the ids under a mask, and logits, which are twice the ids.
_MASKED = '''
<ir_version: 8, opset_import: ["" : 17]>
masked (int64[batch,tokens] input_ids, {mask}[batch,tokens] attention_mask)
    => (float[batch] mean, float[batch,tokens] logits)
    <int64[1] axis = {{1}}> {{
  ids = Cast <to = 1> (input_ids)
  mask = Cast <to = 1> (attention_mask)
  hidden = Mul(ids, mask)
  total = ReduceSum <keepdims = 0> (hidden, axis)
  count = ReduceSum <keepdims = 0> (mask, axis)
  mean = Div(total, count)
  logits = Add(ids, ids)
}}
'''
# The sum and the mean of one input.
_PLAIN = '''
<ir_version: 8, opset_import: ["" : 17]>
plain (float[{batch},{tokens},2] x) => (float[batch,2] sum, float[batch,2] mean)
    <int64[1] axis = {{1}}> {{
  sum = ReduceSum <keepdims = 0> (x, axis)
  mean = ReduceMean <axes = [1], keepdims = 0> (x)
}}
'''


def masked(mask='int64'):
  return _MASKED.format(mask=mask)


def plain(batch='batch', tokens='tokens'):
  return _PLAIN.format(batch=batch, tokens=tokens)


def ids(*lengths):
  return [{'input_ids': numpy.arange(1, n + 1)} for n in lengths]


def arrays(*lengths):
  return [numpy.ones((n, 2), 'float32') * n for n in lengths]


class OnnxTestCase(unittest.TestCase):
  def setUp(self):
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.path = os.path.join(folder.name, 'model.onnx')

  def handler(self, text, inference_fn=None, args=None, **options):
    onnx.save(parse_model(text), self.path)
    kwargs = {'inference_fn': inference_fn} if inference_fn else {}
    return OnnxModelHandlerNumpy(
        self.path,
        providers=['CPUExecutionProvider'],
        padding=PaddingOptions(**options),
        **kwargs,
        **(args or {}))


class OnnxPaddingTest(OnnxTestCase):
  def run_batch(self, batch, text, **kwargs):
    handler = self.handler(text, **kwargs)
    return list(handler.run_inference(batch, handler.load_model()))

  def assert_refused(self, message, batch, text, **kwargs):
    with self.assertRaisesRegex((ValueError, TypeError), message):
      self.run_batch(batch, text, **kwargs)

  @given(
      st.lists(st.integers(1, 9), min_size=1, max_size=6),
      st.sampled_from(('right', 'left')),
      st.sampled_from((1, 4)),
      st.sampled_from(('int64', 'int32', 'float', 'bool')))
  def test_results_are_those_of_each_example_alone(
      self, lengths, side, multiple, dtype):
    batch = ids(*lengths)
    results = self.run_batch(
        batch, masked(dtype), side=side, pad_to_multiple_of=multiple)
    for example, result, length in zip(batch, results, lengths):
      self.assertIs(result.example, example)
      self.assertEqual(list(result.inference), ['mean', 'logits'])
      numpy.testing.assert_allclose(
          result.inference['mean'], (1 + length) / 2, rtol=1e-6)
      numpy.testing.assert_array_equal(
          result.inference['logits'], 2 * example['input_ids'])

  def test_arrays_are_the_first_input_and_give_the_first_output(self):
    results = self.run_batch(arrays(1, 3), plain())
    self.assertEqual([r.inference.tolist() for r in results], [[1, 1], [9, 9]])

  def test_arrays_with_a_mask(self):
    batch = [numpy.arange(1, n + 1) for n in (1, 4, 2)]
    results = self.run_batch(batch, masked(), mask='attention_mask')
    self.assertEqual([r.inference.tolist() for r in results], [1, 2.5, 1.5])

  def test_results_that_depend_on_the_batch(self):
    self.assert_refused(
        r"output \['mean'\] differs .* PaddingOptions\(mask", [{
            'x': x
        } for x in arrays(1, 3)],
        plain())

  def test_inputs_are_checked(self):
    for message, batch, options in (
        (r"\['input_ids', 'attention_mask'\].*\['attention_mask'\] missing",
         ids(1, 2), {'mask': None}),
        (r"\['token_type_ids'\] unknown",
         [{**e, 'token_type_ids': e['input_ids']} for e in ids(1, 2)], {}),
        (r"mask is 'mask', but the .* takes no such argument. It takes "
         'attention_mask', ids(1, 2), {'mask': 'mask'}),
        (r"'input_ids' of the model takes int64, but .* int32.*astype",
         [{k: v.astype('int32') for k, v in e.items()} for e in ids(1, 2)],
         {}),
        (r"'input_ids' .* shape \['batch', 'tokens'\], but .* \[2, 2, 1\]",
         [{k: v[:, None] for k, v in e.items()} for e in ids(1, 2)], {}),
        ("needs NumPy arrays, but key 'input_ids' of element 0 .* a .*list",
         [{'input_ids': [1]}], {}),
        (r"element 1 of the batch has shape \(2, 1\)",
         [{'input_ids': x} for x in (numpy.ones(1, int),
                                     numpy.ones((2, 1), int))], {}),
        ("length 0", ids(1, 0), {}),
    ):
      self.assert_refused(
          'OnnxModelHandlerNumpy: .*' + message, batch, masked(), **options)

  def test_a_fixed_length_is_padded_to(self):
    self.assert_refused(
        'takes the shape .* 8, 2.*pad_to_multiple_of',
        arrays(1, 3),
        plain(tokens=8))
    results = self.run_batch(
        arrays(1, 3),
        plain(tokens=8),
        pad_to_multiple_of=8,
        verify=False,
        per_token_outputs=False)
    self.assertEqual([r.inference.tolist() for r in results], [[1, 1], [9, 9]])

  def test_an_inference_fn_gets_padded_arrays(self):
    seen = []

    def inference_fn(session, batch, inference_args):
      seen.append((session, batch, inference_args))
      return [x.sum() for x in batch]

    results = self.run_batch(
        arrays(1, 3), plain(), inference_fn=inference_fn, mask='mask')
    self.assertEqual([float(r.inference) for r in results], [2, 18])
    _, batch, args = seen[0]
    self.assertEqual([x.shape for x in batch], [(3, 2), (3, 2)])
    self.assertEqual(args['mask'].tolist(), [[1, 0, 0], [1, 1, 1]])

    seen.clear()
    self.run_batch(
        ids(1, 2),
        masked(),
        inference_fn=lambda session, batch, _:
        [seen.append(e) or e['input_ids'].sum() for e in batch])
    self.assertEqual(seen[0]['input_ids'].tolist(), [1, 0])

  def test_options_are_checked_when_the_handler_is_made(self):
    with self.assertRaisesRegex(TypeError, 'must be a PaddingOptions'):
      OnnxModelHandlerNumpy('model.onnx', padding=True)

  def test_a_handler_pickles_and_counts_bytes(self):
    handler = pickle.loads(pickle.dumps(self.handler(masked())))
    batch = ids(1, 2)
    results = list(handler.run_inference(batch, handler.load_model()))
    self.assertEqual([float(r.inference['mean']) for r in results], [1, 1.5])
    self.assertEqual(handler.get_num_bytes(batch), 24)
    self.assertEqual(handler.get_num_bytes(arrays(2, 1)), 24)

  @unittest.skipUnless(
      hasattr(os, 'sched_setaffinity'), 'This system binds no process to CPUs.')
  def test_the_cpus_of_a_process(self):
    self.assertTrue(1 <= usable_cpus() <= len(os.sched_getaffinity(0)))
    code = (
        'import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); '
        'from apache_beam.ml.inference.padding import onnx_session; '
        'raise SystemExit(onnx_session.usable_cpus() != 1)')
    subprocess.run([sys.executable, '-c', code], check=True)

  def test_without_padding_nothing_changes(self):
    onnx.save(parse_model(plain()), self.path)
    handler = OnnxModelHandlerNumpy(
        self.path, providers=['CPUExecutionProvider'])
    session = handler.load_model()
    self.assertIsNone(handler.get_length_fn(None))
    results = list(handler.run_inference(arrays(2, 2), session))
    self.assertEqual([r.inference.tolist() for r in results], [[4, 4], [4, 4]])
    with self.assertRaisesRegex(ValueError, 'same shape'):
      handler.run_inference(arrays(1, 2), session)


class OnnxPipelineTest(OnnxTestCase):
  """With the flag, batches hold arrays of similar length."""
  def _check(self, wrap=lambda handler: handler, element=lambda e: e):
    handler = wrap(
        self.handler(
            masked(),
            args={
                'min_batch_size': 2, 'max_batch_size': 2
            },
            per_token_outputs=False))
    options = PipelineOptions(['--experiments=smart_bucketing'])
    # Given, since the first call takes longer than a batch should.
    batching = BatchingOptions(cost=Cost(fixed=64, per_token=1))
    with TestPipeline('FnApiRunner', options=options) as p:
      results = (
          p | beam.Create([(9, 1, 8, 2)])
          | beam.FlatMap(lambda lengths: [element(e) for e in ids(*lengths)])
          | RunInference(handler, batching_options=batching)
          | beam.Map(lambda x: x[1] if len(x) == 2 else x)
          | beam.Map(
              lambda result: (
                  len(result.example['input_ids']), len(
                      result.inference['logits']))))
      # The length of each example and that of its batch.
      assert_that(results, equal_to([(9, 9), (8, 9), (2, 2), (1, 2)]))

  def test_forms(self):
    for name, kwargs in {
        'dicts': {},
        'keyed': {
            'wrap': KeyedModelHandler, 'element': lambda e: ('key', e)
        },
        'preprocessed': {
            'wrap': lambda handler: handler.with_preprocess_fn(
                lambda e: {'input_ids': numpy.array(e['input_ids'])}),
            'element': lambda e: {'input_ids': e['input_ids'].tolist()}
        },
    }.items():
      with self.subTest(name):
        self._check(**kwargs)


if __name__ == '__main__':
  unittest.main()
