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

"""Tests of the coder of chunks."""

import typing
import unittest

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

import apache_beam as beam
from apache_beam import coders
from apache_beam.ml.inference.iterative.chunk import FINISH_REASONS
from apache_beam.ml.inference.iterative.chunk import Chunk
from apache_beam.ml.inference.iterative.chunk import Timings
from apache_beam.ml.inference.iterative.chunk import Usage
from apache_beam.ml.inference.iterative.chunk_coder import ChunkCoder
from apache_beam.ml.inference.iterative.chunk_coder import chunk_type
from apache_beam.runners import pipeline_context
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.typehints import typehints

_counts = st.none() | st.integers(0, 2**40)
_seconds = st.floats(0, 1e6)
# Half of a surrogate pair among them.
_texts = st.text('a\u00e9\U0001f600\ud83d\n')
chunks = st.builds(
    Chunk,
    request_id=_texts,
    index=st.integers(0, 2**40),
    text=_texts,
    token_ids=st.lists(st.integers(0, 2**40)).map(tuple),
    values=st.none() | st_np.arrays(
        st.sampled_from(['float32', 'int64', 'bool']),
        st_np.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3),
        elements=st.integers(0, 1)),
    finish_reason=st.none() | st.sampled_from(FINISH_REASONS),
    error=st.none() | _texts,
    usage=st.none() | st.builds(Usage, _counts, _counts),
    timings=st.none()
    | st.builds(Timings, _seconds, st.none() | _seconds, _seconds),
    model_id=st.none() | _texts,
    example=st.none() | st.text('a\u00e9'))


def same_values(one, other):
  return (
      one.values is None and other.values is None or
      one.values.dtype == other.values.dtype and
      one.values.shape == other.values.shape)


def first_length(chunk: Chunk) -> int:
  return len(chunk.text)


class ChunkCoderTest(unittest.TestCase):
  @given(chunks)
  def test_decodes_what_it_encoded(self, chunk):
    coder = ChunkCoder(coders.StrUtf8Coder())
    decoded = coder.decode(coder.encode(chunk))
    self.assertEqual(decoded, chunk)
    self.assertTrue(same_values(decoded, chunk))
    self.assertEqual(coder.estimate_size(chunk), len(coder.encode(chunk)))

  @given(st.lists(chunks, max_size=3))
  def test_is_self_delimiting(self, several):
    coder = coders.ListCoder(ChunkCoder(coders.StrUtf8Coder()))
    self.assertEqual(coder.decode(coder.encode(several)), several)

  def test_a_chunk_takes_little_beside_its_text_and_tokens(self):
    coder = ChunkCoder(coders.StrUtf8Coder())
    text, token_ids = 'some text of some tokens', tuple(range(50000, 50008))
    between = Chunk('f' * 32, 10**6, text, token_ids)
    last = Chunk(
        'f' * 32,
        10**6,
        text,
        token_ids,
        finish_reason='stop',
        usage=Usage(4000, 4000),
        timings=Timings(0.1, 0.2, 0.3))
    beside = len(text) + 3 * len(token_ids)
    self.assertLessEqual(len(coder.encode(between)) - beside, 40)
    self.assertLessEqual(len(coder.encode(last)) - beside, 100)

  def test_arrays_of_objects_are_refused(self):
    coder = ChunkCoder(coders.StrUtf8Coder())
    chunk = Chunk('a', 0, values=np.array([object()]))
    with self.assertRaisesRegex(ValueError, 'Object arrays'):
      coder.encode(chunk)

  def test_examples_have_the_coder_of_their_type(self):
    hint = chunk_type(typehints.Tuple[str, int])
    coder = coders.registry.get_coder(typehints.Tuple[str, hint])
    self.assertEqual(
        coder,
        coders.TupleCoder([
            coders.StrUtf8Coder(),
            ChunkCoder(
                coders.TupleCoder([coders.StrUtf8Coder(),
                                   coders.VarIntCoder()]))
        ]))

  def test_a_chunk_is_what_functions_of_chunks_take(self):
    with TestPipeline() as p:
      made = (
          p | beam.Create(['ab', 'c'])
          | beam.Map(lambda t: Chunk('id', 0, t)).with_output_types(
              chunk_type(str))
          | beam.Reshuffle())
      self.assertEqual(typing.get_args(made.element_type), (str, ))
      assert_that(made | beam.Map(first_length), equal_to([2, 1]))

  def test_a_coder_survives_the_pipeline_proto(self):
    coder = ChunkCoder(coders.StrUtf8Coder())
    context = pipeline_context.PipelineContext()
    again = context.coders.get_by_id(context.coders.get_id(coder))
    chunk = Chunk('a', 3, 'text', example='example', finish_reason='stop')
    self.assertEqual(again.decode(coder.encode(chunk)), chunk)


if __name__ == '__main__':
  unittest.main()
