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

import math
import tempfile
import unittest
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

import apache_beam as beam
from apache_beam.ml.inference import base
from apache_beam.ml.inference.agent_development_kit import ADKAgentModelHandler
from apache_beam.ml.inference.halving import BatchSplitter
from apache_beam.ml.inference.halving import is_out_of_memory
from apache_beam.ml.inference.halving import splitter_for
from apache_beam.ml.transforms.base import EmbeddingsManager
from apache_beam.ml.transforms.base import MLTransform
from apache_beam.ml.transforms.base import _TextEmbeddingHandler
from apache_beam.ml.transforms.embeddings.huggingface import InferenceAPIEmbeddings
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to

_FLAG = '--experiments=smart_bucketing'


class _Calls:
  """Doubles numbers, as far as it can."""
  def __init__(self, bad=(), most=math.inf, error=ValueError):
    self.bad, self.most, self.error = bad, most, error
    self.batches = []

  def __call__(self, batch):
    self.batches.append(batch)
    if len(batch) > self.most:
      raise MemoryError()
    if set(self.bad) & set(batch):
      raise self.error('bad')
    return [2 * number for number in batch]


class BatchSplitterTest(unittest.TestCase):
  @given(st.integers(1, 300), st.data())
  def test_one_bad_element(self, count, data):
    bad = data.draw(st.integers(0, count - 1))
    calls = _Calls([bad])
    results, failures = BatchSplitter('ns', Exception).run(
        calls, list(range(count)))
    self.assertEqual(results, [2 * i for i in range(count) if i != bad])
    (batch, (error, message, trace)), = failures
    self.assertEqual((batch, error, message),
                     ([bad], ValueError, "ValueError('bad')"))
    self.assertIn('in __call__', ''.join(trace))
    self.assertLessEqual(
        len(calls.batches) - 1, 2 * math.ceil(math.log2(count)))

  @given(st.integers(1, 100), st.integers(1, 20))
  def test_what_does_not_fit_is_halved(self, count, most):
    calls = _Calls(most=most)
    results, failures = BatchSplitter('ns').run(calls, list(range(count)))
    self.assertEqual(results, [2 * i for i in range(count)])
    self.assertEqual(failures, [])

  def test_other_errors_are_raised_at_once(self):
    calls = _Calls([1])
    with self.assertRaises(ValueError):
      BatchSplitter('ns').run(calls, [0, 1, 2])
    with self.assertRaises(ValueError):
      BatchSplitter('ns', KeyError).run(calls, [0, 1, 2])
    self.assertEqual(len(calls.batches), 2)

  def test_an_element_that_does_not_fit_alone(self):
    calls = _Calls(most=0)
    with self.assertRaises(MemoryError):
      BatchSplitter('ns').run(calls, [0, 1])

  def test_errors_of_torch(self):
    try:
      import torch
    except ImportError:
      raise unittest.SkipTest('PyTorch is not installed.')
    with self.assertRaises(RuntimeError) as caught:
      torch.empty(1 << 50)
    self.assertTrue(is_out_of_memory(caught.exception))
    self.assertTrue(
        is_out_of_memory(torch.OutOfMemoryError('CUDA out of memory.')))
    self.assertFalse(is_out_of_memory(ValueError('out of memory')))


class _Model(base.ModelHandler[str, str, None]):
  """Fails for a batch with the text 'bad', and for more than two texts."""
  def load_model(self):
    return None

  def run_inference(self, batch, model, inference_args=None):
    if 'bad' in batch:
      raise ValueError('bad')
    if len(batch) > 2:
      raise MemoryError()
    return [f'{text} of {len(batch)}' for text in batch]


class _Small(_Model):
  """Has memory for 100 letters."""
  def run_inference(self, batch, model, inference_args=None):
    if sum(map(len, batch)) > 100:
      raise MemoryError()
    return batch


class _Remote(base.RemoteModelHandler[str, str, None]):
  def __init__(self):
    super().__init__('ns', num_retries=0)

  def batch_elements_kwargs(self):
    return {'min_batch_size': 2}

  def create_client(self):
    return None

  def request(self, batch, model, inference_args=None):
    raise ValueError('bad')


class _Embeddings(EmbeddingsManager):
  def __init__(self, handler):
    super().__init__(columns=['x'])
    self._handler = handler

  def get_model_handler(self):
    return self._handler

  def get_ptransform_for_processing(self, **kwargs):
    return base.RunInference(_TextEmbeddingHandler(self))


def _run_and_count(pipeline):
  """The counters by name."""
  found = pipeline.run().metrics().query()['counters']
  return {metric.key.metric.name: metric.result for metric in found}


class RunInferenceHalvesTest(unittest.TestCase):
  def _pipeline(self):
    return TestPipeline(runner='FnApiRunner', options=PipelineOptions([_FLAG]))

  def _texts(self, p, *texts):
    return p | beam.Create([texts]) | beam.FlatMap(lambda t: t)

  def test_what_does_not_fit_in_memory(self):
    p = self._pipeline()
    results = self._texts(p, *'abcd') | base.RunInference(
        _Model(min_batch_size=4, max_batch_size=4))
    assert_that(results, equal_to([f'{text} of 2' for text in 'abcd']))
    counters = _run_and_count(p)
    self.assertEqual(counters['batches_split'], 1)
    self.assertEqual(counters['num_inferences'], 4)

  def test_later_batches_are_smaller(self):
    for kwargs in ({}, {'max_batch_duration_secs': 60}):
      p = self._pipeline()
      handler = _Small(max_batch_size=32, batch_length_fn=len, **kwargs)
      results = self._texts(p, *['x' * 10] * 400) | base.RunInference(handler)
      assert_that(results | beam.combiners.Count.Globally(), equal_to([400]))
      counters = _run_and_count(p)
      # Without a limit that follows there are 13 batches of 32, all split.
      self.assertTrue(1 <= counters['batches_split'] <= 6, counters)

  def test_later_batches_are_smaller_in_another_thread(self):
    p = self._pipeline()
    handler = _Small(max_batch_size=32, batch_length_fn=len)
    results, _ = self._texts(p, *['x' * 10] * 400) | base.RunInference(
        handler).with_exception_handling(timeout=60)
    assert_that(results | beam.combiners.Count.Globally(), equal_to([400]))
    counters = _run_and_count(p)
    self.assertTrue(1 <= counters['batches_split'] <= 6, counters)

  def test_a_threshold_is_a_share_of_elements(self):
    # Of 8 in 2 batches.
    texts = ['a', 'b', 'bad', 'bad', 'c', 'd', 'e', 'bad']
    for threshold in (0.4, 0.3):
      p = self._pipeline()
      results, _ = self._texts(p, *texts) | base.RunInference(
          _Model(min_batch_size=4, max_batch_size=4)).with_exception_handling(
              threshold=threshold)
      assert_that(results | beam.combiners.Count.Globally(), equal_to([5]))
      if threshold > 3 / 8:
        p.run()
      else:
        with self.assertRaisesRegex(Exception, '3 of 8 .*threshold=0.3'):
          p.run()

  def test_a_bad_element_fails_alone(self):
    p = self._pipeline()
    results, other = self._texts(p, 'a', 'b', 'bad', 'c') | base.RunInference(
        _Model(min_batch_size=4, max_batch_size=4)).with_exception_handling()
    assert_that(results, equal_to(['a of 2', 'b of 2', 'c of 1']))
    assert_that(
        other.failed_inferences
        | beam.Map(lambda failed: (failed[0], failed[1][0], failed[1][1])),
        equal_to([(['bad'], ValueError, "ValueError('bad')")]),
        label='failed')
    counters = _run_and_count(p)
    self.assertEqual(counters['num_inferences'], 3)
    self.assertEqual(counters['failed_batches_counter'], 1)

  def test_keyed_elements_keep_their_keys(self):
    with self._pipeline() as p:
      handler = base.KeyedModelHandler(
          _Model(min_batch_size=4, max_batch_size=4))
      results, other = (
          self._texts(p, 'a', 'bad', 'b', 'c')
          | beam.WithKeys(str.upper)
          | base.RunInference(handler).with_exception_handling())
      assert_that(
          results,
          equal_to([('A', 'a of 1'), ('B', 'b of 2'), ('C', 'c of 2')]))
      assert_that(
          other.failed_inferences | beam.Map(lambda failed: failed[0]),
          equal_to([[('BAD', 'bad')]]),
          label='failed')

  def test_remote_calls_and_batches_of_the_user_are_not_split(self):
    with self._pipeline() as p:
      _, other = self._texts(p, 'a', 'b') | base.RunInference(
          _Remote()).with_exception_handling()
      assert_that(
          other.failed_inferences | beam.Map(lambda failed: failed[0]),
          equal_to([['a', 'b']]))
    rows = [{'x': 'a'}, {'x': 'b'}]
    with self._pipeline() as p, tempfile.TemporaryDirectory() as location:
      _, failed = self._texts(p, *rows) | MLTransform(
          write_artifact_location=location).with_transform(
              _Embeddings(_Remote())).with_exception_handling()
      assert_that(failed | beam.Map(lambda row: row.element), equal_to([rows]))
    with self._pipeline() as p:
      _, other = (
          p | beam.Create([['a', 'bad']])
          | base.RunInference(
              _Model().with_no_batching()).with_exception_handling())
      assert_that(
          other.failed_inferences | beam.Map(lambda failed: failed[0]),
          equal_to([['a', 'bad']]))

  def test_handlers_that_call_others(self):
    mapping = [
        base.KeyModelMapping(['a'], _Model()),
        base.KeyModelMapping(['b'], _Remote())
    ]
    embeddings = InferenceAPIEmbeddings('token', ['x'], 'model')
    for handler in (_Remote().with_preprocess_fn(str),
                    base.KeyedModelHandler(_Remote()),
                    base.KeyedModelHandler(mapping),
                    _TextEmbeddingHandler(embeddings)):
      self.assertIsNone(splitter_for(handler, None, Exception), handler)
    own = base.KeyedModelHandler(mapping[:1])
    self.assertIsNotNone(splitter_for(own, None, Exception))
    # It cannot be made without the Agent Development Kit.
    self.assertFalse(ADKAgentModelHandler.splits_failed_batches(mock.Mock()))

  def test_rows_of_ml_transform(self):
    rows = [{'x': 'a'}, {'x': 'b', 'y': 1}, {'x': 'bad'}, {'x': 'c'}]
    with self._pipeline() as p, tempfile.TemporaryDirectory() as location:
      embedded, failed = self._texts(p, *rows) | MLTransform(
          write_artifact_location=location).with_transform(
              _Embeddings(_Model(min_batch_size=4))).with_exception_handling()
      # A row with another column is no neighbour, but not bad by itself.
      assert_that(
          embedded,
          equal_to([{
              'x': 'a of 1'
          }, {
              'x': 'b of 1', 'y': 1
          }, {
              'x': 'c of 1'
          }]))
      assert_that(
          failed | beam.Map(lambda row: row.element),
          equal_to([[{
              'x': 'bad'
          }]]),
          label='failed')


if __name__ == '__main__':
  unittest.main()
