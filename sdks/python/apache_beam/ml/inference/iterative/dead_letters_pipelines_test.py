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

"""Tests of inputs that fail, with a dead letter output."""

import threading
import unittest

import apache_beam as beam
from apache_beam.ml.inference.base import KeyedModelHandler
from apache_beam.ml.inference.base import RunInference
from apache_beam.ml.inference.iterative.engines.generator import GeneratorModelHandler
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to

# How many chunks came out; in the module, so that it is not pickled.
seen = threading.Semaphore(0)


class _NoPrompt(Exception):
  pass


class _Handler(GeneratorModelHandler):
  """Spells inputs; some make no prompt, and the engine fails amid others."""
  def __init__(self):
    super().__init__(lambda: None, _spell, pads=False, max_batch_size=1)

  def prompt_of(self, example):
    if example == 'bad':
      raise ValueError('it is bad')
    if example == 'worse':
      raise _NoPrompt('no role')
    return example


def _spell(batch, model, args):
  for letter in batch[0]:
    if letter == '!':
      # Someone has seen what comes before.
      seen.acquire(timeout=30)
      raise ArithmeticError('out of letters')
    yield 0, letter


def see(element):
  seen.release()
  return element


def _infer(exc_class=Exception, handler=None, **options):
  return RunInference(
      handler or _Handler(),
      iterative=IterativeOptions(
          chunk_tokens=1,
          **options)).with_exception_handling(exc_class=exc_class)


def _pipeline():
  return TestPipeline(
      'FnApiRunner',
      options=PipelineOptions(['--experiments=iterative_inference']))


class PipelineTest(unittest.TestCase):
  def test_each_input_is_in_one_place(self):
    with _pipeline() as p:
      chunks, dead = p | beam.Create(['ab', 'bad', 'worse', 'cd']) | _infer()
      texts = (
          chunks
          | beam.Map(lambda c: (c.request_id, (c.index, c.text, c.error)))
          | beam.GroupByKey()
          | beam.MapTuple(
              lambda _, parts: ''.join(t for _, t, _ in sorted(parts))))
      assert_that(texts, equal_to(['ab', 'cd']))
      failed = dead.failed_inferences | beam.MapTuple(
          lambda inputs, error: (inputs, error[0], error[1][:26]))
      assert_that(
          failed,
          equal_to([(['bad'], ValueError, 'invalid: it is bad'),
                    (['worse'], ValueError, "invalid: 'worse' makes no ")]),
          label='failed')

  def test_what_fails_amid_its_text_ends(self):
    with _pipeline() as p:
      chunks, dead = (
          p | beam.Create([(2, 'cd!ef'), (1, 'ab')])
          | _infer(handler=KeyedModelHandler(_Handler())))
      chunks |= beam.Map(see)
      ends = chunks | beam.Filter(lambda pair: pair[1].is_last) | beam.MapTuple(
          lambda key, c: (key, c.finish_reason, c.dead_lettered))
      assert_that(ends, equal_to([(1, 'stop', False), (2, 'error', True)]))
      failed = dead.failed_inferences | beam.MapTuple(
          lambda inputs, error: (inputs, error[0]))
      assert_that(
          failed, equal_to([([(2, 'cd!ef')], RuntimeError)]), label='failed')

  def test_refuses_what_is_no_exception(self):
    for exc_class in ('ValueError', (ValueError, 3), None):
      with self.assertRaisesRegex(TypeError, 'exc_class='):
        _ = _pipeline() | beam.Create(['a']) | _infer(exc_class)

  def test_exc_class(self):
    for exc_class, fails in ((ValueError, False), (_NoPrompt, False),
                             ((KeyError, RuntimeError), True)):
      with self.subTest(exc_class):
        p = _pipeline()
        _, dead = p | beam.Create(['ab', 'worse']) | _infer(exc_class)
        inputs = dead.failed_inferences | beam.MapTuple(lambda one, _: one)
        assert_that(inputs, equal_to([['worse']]))
        if fails:
          with self.assertRaisesRegex(Exception, 'makes no prompt.*no role'):
            p.run()
        else:
          p.run()


if __name__ == '__main__':
  unittest.main()
