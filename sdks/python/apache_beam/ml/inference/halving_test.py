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
import pickle
import tempfile
import time
import unittest
from unittest import mock

from hypothesis import given
from hypothesis import settings
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


def _bisects(**kwargs):
  return BatchSplitter('ns', Exception, bisects=True, **kwargs)


class BatchSplitterTest(unittest.TestCase):
  @settings(deadline=None)
  @given(st.integers(1, 300), st.data())
  def test_one_bad_element(self, count, data):
    bad = data.draw(st.integers(0, count - 1))
    calls = _Calls([bad])
    results, failures = _bisects().run(calls, list(range(count)))
    self.assertEqual(results, [2 * i for i in range(count) if i != bad])
    (batch, (error, message, trace)), = failures
    self.assertEqual((batch, error, message),
                     ([bad], ValueError, "ValueError('bad')"))
    self.assertIn('in __call__', ''.join(trace))
    self.assertLessEqual(len(calls.batches) - 1, 2 * math.log2(count) + 2)

  @settings(deadline=None)
  @given(st.integers(1, 300), st.data())
  def test_any_number_of_bad_elements(self, count, data):
    bad = data.draw(
        st.one_of(
            st.just(set(range(count))), st.sets(st.integers(0, count - 1))))
    calls = _Calls(bad)
    results, failures = _bisects().run(calls, list(range(count)))
    self.assertEqual(results, [2 * i for i in range(count) if i not in bad])
    self.assertEqual([batch for batch, _ in failures],
                     [[i] for i in sorted(bad)])
    self.assertLessEqual(len(calls.batches) - 1, count + 2 * math.log2(count))

  @given(st.integers(1, 100), st.integers(1, 20))
  def test_what_does_not_fit_is_halved(self, count, most):
    calls = _Calls(most=most)
    results, failures = BatchSplitter('ns').run(calls, list(range(count)))
    self.assertEqual(results, [2 * i for i in range(count)])
    self.assertEqual(failures, [])

  @given(st.integers(2, 60), st.integers(1, 20), st.data())
  def test_what_does_not_fit_and_is_bad(self, count, most, data):
    bad = data.draw(st.sets(st.integers(0, count - 1)))
    results, failures = _bisects().run(_Calls(bad, most), list(range(count)))
    self.assertEqual(results, [2 * i for i in range(count) if i not in bad])
    self.assertEqual([batch for batch, _ in failures],
                     [[i] for i in sorted(bad)])

  def test_other_errors_are_raised_at_once(self):
    for splitter in (BatchSplitter('ns'),
                     BatchSplitter('ns', KeyError),
                     BatchSplitter('ns', ValueError),
                     BatchSplitter('ns', KeyError, bisects=True)):
      calls = _Calls([1])
      with self.assertRaises(ValueError):
        splitter.run(calls, [0, 1, 2])
      self.assertEqual(len(calls.batches), 1)

  def test_an_element_that_does_not_fit_alone(self):
    with self.assertRaises(MemoryError):
      BatchSplitter('ns').run(_Calls(most=0), [0, 1])
    # One dead letter for a batch, as without a splitter.
    for bisects, expected in ((False, [[0, 1, 2]]), (True, [[0], [1], [2]])):
      results, failures = BatchSplitter('ns', Exception, bisects).run(
          _Calls(most=0), [0, 1, 2])
      self.assertEqual(results, [])
      self.assertEqual([batch for batch, _ in failures], expected)

  def test_each_call_has_a_list_of_its_own(self):
    def eats(batch):
      taken = [batch.pop() for _ in range(len(batch))][::-1]
      if len(taken) > 2:
        raise MemoryError()
      if 3 in taken:
        raise ValueError('bad')
      return taken

    batch = [0, 1, 2, 3, 4]
    results, failures = _bisects().run(eats, batch)
    self.assertEqual(results, [0, 1, 2, 4])
    self.assertEqual([held for held, _ in failures], [[3]])
    self.assertEqual(batch, [0, 1, 2, 3, 4])

  def test_any_number_of_results(self):
    def twice(batch):
      if len(batch) > 2:
        raise MemoryError()
      return [*batch, *batch] if 1 in batch else []

    results, _ = BatchSplitter('ns').run(twice, [0, 1, 2, 3])
    self.assertEqual(results, [0, 1, 0, 1])

  def test_each_call_has_a_timeout_of_its_own(self):
    def slow(batch):
      time.sleep(0.2)
      if 3 in batch:
        raise ValueError('bad')
      return batch

    # Seven calls in all.
    splitter = pickle.loads(pickle.dumps(_bisects(timeout=0.9)))
    results, failures = splitter.run(slow, list(range(8)))
    self.assertEqual(results, [0, 1, 2, 4, 5, 6, 7])
    self.assertEqual(len(failures), 1)

  def test_a_call_that_takes_too_long(self):
    def slow(batch):
      if 1 in batch:
        time.sleep(60)
      return batch

    results, failures = _bisects(timeout=0.3).run(slow, [0, 1])
    self.assertEqual(results, [0])
    (batch, (error, _, _)), = failures
    self.assertEqual((batch, error), ([1], TimeoutError))
    with self.assertRaises(TimeoutError):
      _bisects(timeout=0.3, splits_timeouts=False).run(slow, [0, 1])
    with self.assertRaises(TimeoutError):
      BatchSplitter('ns', timeout=0.1).in_time(lambda: time.sleep(60))


class OutOfMemoryTest(unittest.TestCase):
  def _named(self, module, name='Error', base=Exception):
    return type(name, (base, ), {'__module__': module})

  def test_messages_of_libraries(self):
    xla = self._named('jaxlib.xla_extension', base=RuntimeError)
    onnx = self._named('onnxruntime.capi.onnxruntime_pybind11_state')
    tensorflow = self._named('tensorflow.python.framework.errors_impl')
    for error in (
        MemoryError(),
        RuntimeError('CUDA out of memory. Tried to allocate 2.00 GiB'),
        RuntimeError(
            'MPS backend out of memory (MPS allocated: 9.00 GB, max allowed: '
            '9.07 GB). Tried to allocate 256.00 MB on private pool.'),
        RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling '
                     '`cublasCreate(handle)`'),
        RuntimeError('cuDNN error: CUDNN_STATUS_ALLOC_FAILED'),
        RuntimeError(
            '[enforce fail at alloc_cpu.cpp:114] . DefaultCPUAllocator: not '
            'enough memory: you tried to allocate 4398046511104 bytes.'),
        xla('RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes'
            ),
        xla('RESOURCE_EXHAUSTED: Failed to allocate request for 2.00GiB'),
        xla('RESOURCE_EXHAUSTED: Attempting to allocate 3.00G. That was not '
            'possible. There are 2.10G free.'),
        onnx('[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate '
             'memory for requested buffer of size 4294967296'),
        onnx('[ONNXRuntimeError] : 1 : FAIL : bad allocation'),
        RuntimeError('std::bad_alloc'),
        tensorflow(
            'OOM when allocating tensor with shape[32,512,30522] and type'
            ' float on /job:localhost/replica:0/task:0/device:GPU:0'),
    ):
      with self.subTest(str(error)):
        self.assertTrue(is_out_of_memory(error))
        try:
          raise ValueError('inference failed') from error
        except ValueError as e:
          self.assertTrue(is_out_of_memory(e))

  def test_other_errors(self):
    quota = self._named('google.api_core.exceptions')
    for error in (
        ValueError('out of memory'),
        KeyError('bad_alloc'),
        quota('429 RESOURCE_EXHAUSTED: Quota exceeded, out of memory'),
        RuntimeError('CUDA error: device-side assert triggered'),
        RuntimeError()):
      self.assertFalse(is_out_of_memory(error), error)

  def test_an_error_with_more_causes_than_are_looked_at(self):
    error = ValueError('bad')
    for _ in range(9):
      error, cause = ValueError('bad'), error
      error.__cause__ = cause
    self.assertFalse(is_out_of_memory(error))

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


def _splitter(handler, backs_off=True, bisects=False):
  return splitter_for(
      handler, None, Exception, backs_off, bisects, None, 'Owner')


class Embeddings(EmbeddingsManager):
  def __init__(self, handler):
    super().__init__(columns=['x'])
    self._handler = handler

  def get_model_handler(self):
    return self._handler

  def get_ptransform_for_processing(self, **kwargs):
    return base.RunInference(_TextEmbeddingHandler(self))


def run_and_count(pipeline):
  """The counters by name."""
  found = pipeline.run().metrics().query()['counters']
  return {metric.key.metric.name: metric.result for metric in found}


class RunInferenceTestCase(unittest.TestCase):
  def _pipeline(self):
    return TestPipeline(runner='FnApiRunner', options=PipelineOptions([_FLAG]))

  def _texts(self, p, *texts):
    return p | beam.Create([texts]) | beam.FlatMap(lambda t: t)


class RunInferenceHalvesTest(RunInferenceTestCase):
  def test_what_does_not_fit_in_memory(self):
    p = self._pipeline()
    results = self._texts(p, *'abcd') | base.RunInference(
        _Model(min_batch_size=4, max_batch_size=4))
    assert_that(results, equal_to([f'{text} of 2' for text in 'abcd']))
    counters = run_and_count(p)
    self.assertEqual(counters['batches_split'], 1)
    self.assertEqual(counters['num_inferences'], 4)

  def test_a_handler_of_the_users_with_the_attribute_of_mltransforms(self):
    handler = _Model(min_batch_size=4, max_batch_size=4)
    handler._underlying = {'any': 'thing'}
    with self._pipeline() as p:
      results = self._texts(p, *'abcd') | base.RunInference(handler)
      assert_that(results, equal_to([f'{text} of 2' for text in 'abcd']))

  def test_later_batches_are_smaller(self):
    p = self._pipeline()
    handler = _Small(max_batch_size=32, batch_length_fn=len)
    results = self._texts(p, *['x' * 10] * 400) | base.RunInference(handler)
    assert_that(results | beam.combiners.Count.Globally(), equal_to([400]))
    counters = run_and_count(p)
    # Without a limit that follows there are 13 batches of 32, all split.
    self.assertTrue(1 <= counters['batches_split'] <= 6, counters)

  def test_later_batches_are_smaller_in_another_thread(self):
    p = self._pipeline()
    handler = _Small(max_batch_size=32, batch_length_fn=len)
    results, _ = self._texts(p, *['x' * 10] * 400) | base.RunInference(
        handler).with_exception_handling(timeout=60)
    assert_that(results | beam.combiners.Count.Globally(), equal_to([400]))
    counters = run_and_count(p)
    self.assertTrue(1 <= counters['batches_split'] <= 6, counters)

  def test_a_batch_that_fails_is_a_dead_letter_as_without_the_flag(self):
    for flags in ((), (_FLAG, )):
      p = TestPipeline(runner='FnApiRunner', options=PipelineOptions(flags))
      results, other = self._texts(
          p, 'a', 'b', 'bad', 'c') | base.RunInference(
              _Model(min_batch_size=2,
                     max_batch_size=2)).with_exception_handling(threshold=0.5)
      assert_that(results, equal_to(['a of 2', 'b of 2']))
      assert_that(
          other.failed_inferences | beam.Map(lambda failed: failed[0]),
          equal_to([['bad', 'c']]),
          label='failed')
      counters = run_and_count(p)
      self.assertNotIn('batches_split', counters)

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
              Embeddings(_Remote())).with_exception_handling()
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
      self.assertIsNone(_splitter(handler), handler)
      self.assertIsNotNone(_splitter(handler, bisects=True), handler)
    own = base.KeyedModelHandler(mapping[:1])
    self.assertIsNotNone(_splitter(own))
    self.assertIsNone(_splitter(own, backs_off=False))
    with self.assertRaisesRegex(ValueError, 'Owner: bisect_failed_batches has'):
      _splitter(_Model().with_no_batching(), bisects=True)
    # It cannot be made without the Agent Development Kit.
    self.assertFalse(ADKAgentModelHandler.splits_failed_batches(mock.Mock()))


if __name__ == '__main__':
  unittest.main()
