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

import unittest

import apache_beam as beam
from apache_beam import coders
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pipeline import PipelineVisitor
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.transforms import userstate
from apache_beam.transforms.util import BatchElements
from apache_beam.transforms.util import GroupIntoBatches


class Text:
  """A type with a coder of its own."""
  def __init__(self, text):
    self.text = text


class TextCoder(coders.Coder):
  def encode(self, value):
    return value.text.encode()

  def decode(self, encoded):
    return Text(encoded.decode())

  def is_deterministic(self):
    return True

  def __eq__(self, other):
    return type(self) is type(other)

  def __hash__(self):
    return hash(type(self))


coders.registry.register_coder(Text, TextCoder)


class _StateCoders(PipelineVisitor):
  """Collects the coder of each state cell, by its name."""
  def __init__(self):
    self.coders = {}

  def visit_transform(self, applied):
    if isinstance(applied.transform, beam.ParDo):
      state_specs, _ = userstate.get_dofn_specs(applied.transform.fn)
      self.coders.update({spec.name: spec.coder for spec in state_specs})


def _state_coders(pipeline):
  visitor = _StateCoders()
  pipeline.visit(visitor)
  return visitor.coders


class BatchElementsStateCodersTest(unittest.TestCase):
  def _batch(self, **options):
    pipeline = TestPipeline(
        runner='FnApiRunner', options=PipelineOptions(**options))
    with pipeline as p:
      texts = (
          p
          | beam.Create(['a', 'bb', 'ccc', 'dd', 'e'])
          | beam.Map(Text).with_output_types(Text)
          | BatchElements(2, 2, max_batch_duration_secs=60)
          | beam.FlatMap(lambda batch: [element.text for element in batch]))
      assert_that(texts, equal_to(['a', 'bb', 'ccc', 'dd', 'e']))
    return _state_coders(pipeline)

  def test_registered_coder_for_elements_and_ints_for_counts(self):
    found = self._batch()
    self.assertIsInstance(found['values'], TextCoder)
    self.assertEqual(coders.VarIntCoder(), found['batch_size'])
    # A combining cell keeps its accumulators.
    self.assertEqual(coders.VarIntCoder(), found['count'])

  def test_updated_pipeline_keeps_its_encoding(self):
    found = self._batch(update_compatibility_version='2.77.0')
    for name in ('values', 'batch_size', 'count'):
      self.assertIsInstance(found[name], coders.FastPrimitivesCoder)


class GroupIntoBatchesStateCodersTest(unittest.TestCase):
  def _group(self, **options):
    pipeline = TestPipeline(
        runner='FnApiRunner', options=PipelineOptions(**options))
    with pipeline as p:
      texts = (
          p
          | beam.Create([('k', 'a'), ('k', 'bb'), ('l', 'ccc')])
          | beam.MapTuple(lambda k, v: (k, Text(v))).with_output_types(
              tuple[str, Text])
          | GroupIntoBatches(2)
          | beam.MapTuple(lambda k, batch: (k, [v.text for v in batch])))
      assert_that(texts, equal_to([('k', ['a', 'bb']), ('l', ['ccc'])]))
    return _state_coders(pipeline)

  def test_registered_coder_for_elements_and_ints_for_counts(self):
    found = self._group()
    self.assertEqual(
        coders.TupleCoder([coders.StrUtf8Coder(), TextCoder()]),
        found['values'])
    self.assertEqual(coders.VarIntCoder(), found['count'])

  def test_updated_pipeline_keeps_its_encoding(self):
    found = self._group(update_compatibility_version='2.77.0')
    for name in ('values', 'count'):
      self.assertIsInstance(found[name], coders.FastPrimitivesCoder)


if __name__ == '__main__':
  unittest.main()
