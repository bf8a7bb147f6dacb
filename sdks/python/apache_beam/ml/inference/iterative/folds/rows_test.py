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

"""Tests of chunks as rows."""

import functools
import glob
import json
import tempfile
import typing
import unittest

import numpy as np
from hypothesis import given
from hypothesis import settings

import apache_beam as beam
from apache_beam import coders
from apache_beam.ml.inference.iterative.chunk import Chunk
from apache_beam.ml.inference.iterative.chunk import Timings
from apache_beam.ml.inference.iterative.chunk import Usage
from apache_beam.ml.inference.iterative.chunk_coder_test import chunks
from apache_beam.ml.inference.iterative.folds import rows as rows_of_chunks
from apache_beam.ml.inference.iterative.folds.rows import AsRows
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.typehints import schemas

try:
  import pyarrow
  import pyarrow.parquet
except ImportError:
  pyarrow = None

_CHUNKS = [
    Chunk('a', 0, 'One \xe9\U0001f600', (1, 2**40)),
    Chunk(
        'a',
        1,
        '',
        finish_reason='stop',
        usage=Usage(7, 2),
        timings=Timings(0.25, 0.5, 1.5),
        model_id='m',
        example='prompt'),
    Chunk('b', 0, values=np.array([[1, 2], [3, 4]])),
    Chunk(
        'b',
        1,
        finish_reason='error',
        error='server: 503',
        usage=Usage(),
        timings=Timings(0.25),
        example='other',
        dead_lettered=True),
]
_NOTHING = {
    'text': '',
    'token_ids': [],
    'values': [],
    'values_shape': [],
    'finish_reason': None,
    'error': None,
    'prompt_tokens': None,
    'completion_tokens': None,
    'queued_secs': None,
    'first_token_secs': None,
    'total_secs': None,
    'model_id': None,
    'dead_lettered': False,
    'example': None,
}
_ROWS = [
    dict(
        _NOTHING,
        request_id='a',
        index=0,
        text='One \xe9\U0001f600',
        token_ids=[1, 2**40]),
    dict(
        _NOTHING,
        request_id='a',
        index=1,
        finish_reason='stop',
        prompt_tokens=7,
        completion_tokens=2,
        queued_secs=0.25,
        first_token_secs=0.5,
        total_secs=1.5,
        model_id='m',
        example='prompt'),
    dict(
        _NOTHING,
        request_id='b',
        index=0,
        values=[1.0, 2.0, 3.0, 4.0],
        values_shape=[2, 2]),
    dict(
        _NOTHING,
        request_id='b',
        index=1,
        finish_reason='error',
        error='server: 503',
        queued_secs=0.25,
        total_secs=0.0,
        example='other',
        dead_lettered=True),
]


def _by_place(rows):
  return sorted(rows, key=lambda row: (row['request_id'], row['index']))


def _create(p, keyed=False, hint=str):
  elements = [('k', chunk) for chunk in _CHUNKS] if keyed else _CHUNKS
  chunk_type = Chunk[hint]
  return p | beam.Create(elements).with_output_types(
      tuple[str, chunk_type] if keyed else chunk_type)


@functools.cache
def _coder():
  rows = TestPipeline() | beam.Create([]).with_output_types(
      Chunk[str]) | AsRows()
  return coders.registry.get_coder(rows.element_type)


class AsRowsTest(unittest.TestCase):
  def write(self, sink, keyed=False):
    """What files a pipeline writes, after a shuffle."""
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    with TestPipeline('FnApiRunner') as p:
      rows = _create(p, keyed) | AsRows()
      _ = rows | beam.Reshuffle() | sink(f'{folder.name}/rows')
    return glob.glob(f'{folder.name}/rows*')

  @unittest.skipIf(pyarrow is None, 'pyarrow is not installed.')
  def test_parquet(self):
    (path, ) = self.write(beam.io.WriteToParquet)
    table = pyarrow.parquet.read_table(path)
    self.assertEqual(_by_place(table.to_pylist()), _ROWS)
    types = {field.name: field.type for field in table.schema}
    self.assertEqual(types['token_ids'].value_type, pyarrow.int64())
    self.assertEqual(types['first_token_secs'], pyarrow.float64())
    with TestPipeline('FnApiRunner') as p:
      assert_that(p | beam.io.ReadFromParquet(path), equal_to(_ROWS))

  def test_json(self):
    (path, ) = self.write(beam.io.WriteToJson)
    with open(path, encoding='utf-8') as lines:
      rows = [json.loads(line) for line in lines]
    self.assertEqual(_by_place(rows), _ROWS)

  def test_json_of_keyed_chunks(self):
    (path, ) = self.write(
        beam.io.WriteToJson, keyed=True)
    with open(path, encoding='utf-8') as lines:
      rows = [json.loads(line) for line in lines]
    self.assertEqual(_by_place(rows), [dict(row, key='k') for row in _ROWS])

  def test_columns_can_be_selected_and_grouped(self):
    with TestPipeline('FnApiRunner') as p:
      rows = _create(p) | AsRows() | beam.Reshuffle()
      selected = (
          rows
          | beam.Select('request_id', 'index', long=lambda row: len(row.text)))
      self.assertEqual(
          selected.element_type._fields,
          (('request_id', str), ('index', int), ('long', int)))
      assert_that(
          selected | 'Tuple' >> beam.Map(tuple),
          equal_to([('a', 0, 6), ('a', 1, 0), ('b', 0, 0), ('b', 1, 0)]))
      ends = rows | beam.GroupBy('request_id').aggregate_field(
          'index', max, 'last')
      assert_that(
          ends | 'Ends' >> beam.Map(tuple),
          equal_to([('a', 1), ('b', 1)]),
          label='ends')

  def test_the_schema_has_types_that_all_languages_have(self):
    # SQL, BigQuery and other transforms of other languages go by it.
    with TestPipeline() as p:
      rows = _create(p, keyed=True) | AsRows()
      schema = schemas.typing_to_runner_api(rows.element_type).row_type.schema
    self.assertEqual([field.name for field in schema.fields],
                     ['key', 'request_id', 'index'] + [*_NOTHING])
    for field in schema.fields:
      kind = field.type.WhichOneof('type_info')
      if kind == 'array_type':
        kind = field.type.array_type.element_type.WhichOneof('type_info')
      self.assertEqual(kind, 'atomic_type', field.name)
      self.assertEqual(
          field.type.nullable, _NOTHING.get(field.name, '') is None, field.name)

  def test_bigquery_gets_a_schema(self):
    with TestPipeline() as p:
      rows = _create(p, keyed=True) | AsRows()
      found = rows_of_chunks.bigquery_schema(rows.element_type)['fields']
    self.assertEqual({(f['type'], f['mode']): f['name']
                      for f in found},
                     {
                         ('STRING', 'REQUIRED'): 'text',
                         ('INTEGER', 'REQUIRED'): 'index',
                         ('BOOLEAN', 'REQUIRED'): 'dead_lettered',
                         ('INTEGER', 'REPEATED'): 'values_shape',
                         ('FLOAT', 'REPEATED'): 'values',
                         ('STRING', 'NULLABLE'): 'example',
                         ('INTEGER', 'NULLABLE'): 'completion_tokens',
                         ('FLOAT', 'NULLABLE'): 'total_secs',
                     })
    self.assertEqual([f['name'] for f in found],
                     ['key', 'request_id', 'index'] + [*_NOTHING])
    nested = typing.NamedTuple('Nested', [('a', typing.Mapping[str, int])])
    with self.assertRaisesRegex(TypeError, 'bigquery_schema: the column a is'):
      rows_of_chunks.bigquery_schema(nested)

  @settings(deadline=None)
  @given(chunks)
  def test_the_coder_of_rows_keeps_all_of_them(self, chunk):
    row, coder = rows_of_chunks._row(False, None, chunk), _coder()
    decoded = coder.decode(coder.encode(row))._asdict()
    values = None if chunk.values is None else chunk.values
    self.assertEqual(decoded['index'], chunk.index)
    self.assertEqual(tuple(decoded['token_ids']), chunk.token_ids)
    self.assertEqual(decoded['finish_reason'], chunk.finish_reason)
    self.assertEqual(decoded['example'], chunk.example)
    self.assertEqual(decoded['dead_lettered'], chunk.dead_lettered)
    for name in ('request_id', 'text', 'error', 'model_id'):
      text = getattr(chunk, name)
      self.assertEqual(decoded[name], text and text.replace('\ud83d', '\ufffd'))
    if values is not None:
      np.testing.assert_array_equal(
          np.reshape(decoded['values'], decoded['values_shape']), values)
    for owner, names in ((chunk.usage, ('prompt_tokens', 'completion_tokens')),
                         (chunk.timings,
                          ('queued_secs', 'first_token_secs', 'total_secs'))):
      for i, name in enumerate(names):
        expected = owner and tuple(vars(owner).values())[i]
        self.assertEqual(decoded[name], expected)


class RefusesTest(unittest.TestCase):
  def test_examples_that_are_no_column(self):
    hint = dict[str, str]
    with self.assertRaisesRegex(TypeError,
                                'AsRows: examples of the type.*[Dd]ict'
                                '.*example_fn, such as json.dumps'):
      _ = _create(TestPipeline(), hint=hint) | AsRows()
    with TestPipeline('FnApiRunner') as p:
      chunk = Chunk('a', 0, finish_reason='stop', example={'role': 'user'})
      rows = (
          p | beam.Create([chunk]).with_output_types(Chunk[hint])
          | AsRows(example_fn=json.dumps))
      assert_that(
          rows | beam.Map(lambda row: row.example),
          equal_to(['{"role": "user"}']))
    with self.assertRaisesRegex(TypeError, 'example_fn=3'):
      AsRows(example_fn=3)

  def test_other_elements(self):
    p = TestPipeline()
    for label, hint, message in (
        ('1', str, 'takes chunks'), ('2', typing.Any, 'is not known'),
        ('3', tuple[list[int], Chunk[str]], 'keys of the type')):
      with self.assertRaisesRegex(TypeError, f'AsRows: .*{message}'):
        elements = p | label >> beam.Create([]).with_output_types(hint)
        _ = elements | f'Rows {label}' >> AsRows()

  def test_values_that_are_no_floats(self):
    for values in (np.array(['x']), np.array([2**60 + 1]), np.array([1j])):
      with self.assertRaisesRegex(ValueError, 'AsRows: .*'):
        rows_of_chunks._row(False, None, Chunk('a', 0, values=values))


if __name__ == '__main__':
  unittest.main()
