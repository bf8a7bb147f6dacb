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

import dataclasses
import typing
import unittest
from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

import apache_beam as beam
from apache_beam import coders
from apache_beam.ml.inference.iterative import chunk_coder
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
    example=st.none() | st.text('a\u00e9'),
    dead_lettered=st.booleans())
# What the first version of the coder wrote.
_FIRST_VERSION = (
    (Chunk('a', 0, 'x', (1, 300)), b'\x03\x01a\x00\x01x\x02\x01\xac\x02'),
    (
        Chunk(
            'id \xe9',
            7,
            'y', (3, ),
            finish_reason='length',
            usage=Usage(None, 12),
            timings=Timings(0.25, None, 1.5),
            model_id='m',
            example='p'),
        b'\xf3\x05\x05id \xc3\xa9\x07\x01y\x01\x03\x00\r?\xd0\x00\x00\x00\x00\x00'
        b'\x00\xbf\xf0\x00\x00\x00\x00\x00\x00?\xf8\x00\x00\x00\x00\x00\x00\x01m\x01p'
    ),
    (
        Chunk('b', 1, values=np.array([[1, 2]], np.int16)),
        b"\x04\x01b\x01\x84\x01\x93NUMPY\x01\x00v\x00{'descr': '<i2', "
        b"'fortran_order': False, 'shape': (1, 2), }" + 58 * b' ' +
        b'\n\x01\x00\x02\x00'),
    (
        Chunk(
            'b',
            1,
            finish_reason='error',
            error='server: 503',
            usage=Usage(4, 0),
            timings=Timings(0.0, 0.5, 0.75)),
        b'\xb8\x08\x01b\x01\x0bserver: 503\x05\x01' + 8 * b'\x00' +
        b'?\xe0\x00\x00\x00\x00\x00\x00?\xe8\x00\x00\x00\x00\x00\x00'),
    (Chunk('', 0, finish_reason='cancelled'), b'\x80\x06\x00\x00'),
)


@dataclasses.dataclass(frozen=True)
class LaterUsage(Usage):
  cached_tokens: int | None = None
  tier: str | None = None


@dataclasses.dataclass(frozen=True)
class LaterTimings(Timings):
  prefill: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class LaterChunk(Chunk):
  """A chunk as a later version may have it."""
  attempt: int = 0
  note: str = ''


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

  def test_the_form_of_the_first_version_is_read_and_written(self):
    coder = ChunkCoder(coders.StrUtf8Coder())
    for chunk, encoded in _FIRST_VERSION:
      decoded = coder.decode(encoded)
      self.assertEqual(decoded, chunk)
      self.assertTrue(same_values(decoded, chunk))
      # So that workers of both versions read each other's.
      self.assertEqual(coder.encode(chunk), encoded)

  @settings(deadline=None)
  @given(
      chunks,
      st.integers(-2**40, 2**40),
      _texts,
      st.none() | st.integers(0, 2**40),
      st.none() | _texts,
      st.none() | _seconds)
  def test_fields_of_a_later_version(
      self, chunk, attempt, note, cached, tier, prefill):
    parts = dict(vars(chunk), attempt=attempt, note=note)
    if chunk.usage is not None:
      parts['usage'] = LaterUsage(
          *dataclasses.astuple(chunk.usage), cached, tier)
    if chunk.timings is not None:
      parts['timings'] = LaterTimings(
          *dataclasses.astuple(chunk.timings), prefill)
    later = LaterChunk(**parts)
    kinds = {'': LaterChunk, 'usage': LaterUsage, 'timings': LaterTimings}
    coder = coders.ListCoder(ChunkCoder(coders.StrUtf8Coder()))
    with mock.patch.dict(chunk_coder._KINDS, kinds), mock.patch.multiple(
        chunk_coder, Chunk=LaterChunk, Usage=LaterUsage, Timings=LaterTimings):
      with mock.patch.object(chunk_coder,
                             '_FURTHER_FIELDS',
                             chunk_coder._further_fields()):
        encoded = coder.encode([later, later])
        decoded = coder.decode(encoded)
    self.assertEqual([type(one) for one in decoded], 2 * [LaterChunk])
    self.assertEqual(decoded, [later, later])
    # This version skips what it does not know.
    self.assertEqual(coder.decode(encoded), [chunk, chunk])

  def test_what_cannot_be_skipped_names_the_remedy(self):
    coder = ChunkCoder(coders.StrUtf8Coder())
    for encoded in (b'\x80\x40\x01a\x00', b'\x80\x0a\x01a\x00'):
      with self.assertRaisesRegex(ValueError, 'later version of Beam'):
        coder.decode(encoded)

  def test_a_further_field_is_small_and_plain(self):
    coder = ChunkCoder(coders.StrUtf8Coder())
    chunk = Chunk('a', 1, finish_reason='error', error='engine: x')
    marked = dataclasses.replace(chunk, dead_lettered=True)
    self.assertLessEqual(
        len(coder.encode(marked)) - len(coder.encode(chunk)), 20)
    with self.assertRaisesRegex(TypeError, 'Chunk.dead_lettered=.*must be'):
      coder.encode(dataclasses.replace(chunk, dead_lettered=object()))

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
