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

"""Chunks as rows with a schema, for sinks, SQL and the like."""

import functools
import typing
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import numpy as np

from apache_beam import pvalue
from apache_beam.ml.inference.iterative.chunk import Chunk
from apache_beam.ml.inference.iterative.chunk import Usage
from apache_beam.ml.inference.iterative.folds import do_fns as fold_fns
from apache_beam.portability.api import schema_pb2
from apache_beam.transforms.core import Map
from apache_beam.transforms.ptransform import PTransform
from apache_beam.typehints import row_type
from apache_beam.typehints import schemas

# What a column of each of these types holds is what the chunk has.
_PLAIN = (str, bytes, bool, int, float)
_BIGQUERY_TYPES = {
    schema_pb2.STRING: 'STRING',
    schema_pb2.BYTES: 'BYTES',
    schema_pb2.BOOLEAN: 'BOOLEAN',
    schema_pb2.INT32: 'INTEGER',
    schema_pb2.INT64: 'INTEGER',
    schema_pb2.FLOAT: 'FLOAT',
    schema_pb2.DOUBLE: 'FLOAT',
}
# Of the larger ones a float has not each.
_MOST_EXACT_INT = 2**53


def _columns(chunk: Chunk) -> dict[str, Any]:
  """All columns but those of the key and the example."""
  usage, timings = chunk.usage or Usage(), chunk.timings
  values = None if chunk.values is None else np.asarray(chunk.values)
  return {
      'request_id': _text(chunk.request_id),
      'index': chunk.index,
      'text': _text(chunk.text),
      'token_ids': list(map(int, chunk.token_ids)),
      'values': [] if values is None else _floats(values),
      'values_shape': [] if values is None else list(values.shape),
      'finish_reason': chunk.finish_reason,
      'error': _text(chunk.error),
      'prompt_tokens': usage.prompt_tokens,
      'completion_tokens': usage.completion_tokens,
      'queued_secs': timings and timings.queued,
      'first_token_secs': timings and timings.first,
      'total_secs': timings and timings.total,
      'model_id': _text(chunk.model_id),
      'dead_lettered': chunk.dead_lettered,
  }


# Of typing, whose forms schemas know.
_TYPES: Mapping[str, Any] = {
    'request_id': str,
    'index': int,
    'text': str,
    'token_ids': typing.Sequence[int],
    'values': typing.Sequence[float],
    'values_shape': typing.Sequence[int],
    'finish_reason': typing.Optional[str],
    'error': typing.Optional[str],
    'prompt_tokens': typing.Optional[int],
    'completion_tokens': typing.Optional[int],
    'queued_secs': typing.Optional[float],
    'first_token_secs': typing.Optional[float],
    'total_secs': typing.Optional[float],
    'model_id': typing.Optional[str],
    'dead_lettered': bool,
}


class AsRows(PTransform):
  """Converts each chunk to a flat row with a schema::

    chunks | AsRows() | beam.io.WriteToParquet('chunks')
    chunks | AsRows() | beam.Select('request_id', 'index', 'text')

  The columns are

  - key, if the input consists of pairs of a key and a chunk,
  - request_id, index, text, finish_reason, error, model_id and dead_lettered,
    as in a Chunk,
  - token_ids; values, the numbers of an array as floats, and values_shape,
  - prompt_tokens, completion_tokens, queued_secs, first_token_secs and
    total_secs, from the usage and timings of the last chunk,
  - example, on the last chunk.

  A field that a chunk does not have is null or an empty list. Half of a
  surrogate pair, which some engines emit and no encoding has, becomes U+FFFD.

  Args:
    example_fn: converts an example to a str, such as ``json.dumps``. None:
      examples of the types str, bytes, bool, int and float are kept.

  Raises:
    TypeError: if the input is known to be something else than chunks, or pairs
      with one; if the type of chunks, of their examples or keys is not known or
      is none of those; if example_fn is no function.
    ValueError: while it runs, if values are no numbers that floats hold.
  """
  def __init__(self, example_fn: Callable[[Any], str] | None = None):
    super().__init__()
    if example_fn is not None and not callable(example_fn):
      raise TypeError(f'AsRows(example_fn={example_fn!r}): must be a function.')
    self._example_fn = example_fn

  def expand(self, pcoll):
    is_keyed, chunk_type = fold_fns.chunk_type_of('AsRows', pcoll.element_type)
    if is_keyed is None:
      raise TypeError(
          'AsRows: the type of its input is not known. Let the step before say '
          'it, with .with_output_types(Chunk[str]) or, with keys, '
          '.with_output_types(tuple[str, Chunk[str]]).')
    fields = {}
    if is_keyed:
      fields['key'] = _plain(
          'keys', pcoll.element_type.tuple_types[0], 'Make a str of them')
    fields.update(_TYPES)
    example = typing.get_args(chunk_type)
    fields['example'] = typing.Optional[str]
    if self._example_fn is None:
      fields['example'] = typing.Optional[_plain(
          'examples',
          example[0] if example else Any,
          'Give AsRows an example_fn, such as json.dumps')]
    return pcoll | 'Row' >> Map(
        functools.partial(_row, is_keyed, self._example_fn)).with_output_types(
            row_type.RowTypeConstraint.from_fields(list(fields.items())))


def bigquery_schema(row: Any) -> dict[str, list[dict[str, str]]]:
  """The schema of a table for rows, as WriteToBigQuery takes it::

    rows = chunks | AsRows()
    rows | beam.Map(lambda row: row._asdict()) | beam.io.WriteToBigQuery(
        'project:dataset.chunks', schema=bigquery_schema(rows.element_type))

  Args:
    row: the type of the rows, such as ``rows.element_type`` or a NamedTuple.

  Raises:
    TypeError: if a column is neither a str, bytes, bool, int or float nor a list
      of them.
  """
  fields = []
  for field in schemas.typing_to_runner_api(row).row_type.schema.fields:
    kind, mode = field.type, 'NULLABLE' if field.type.nullable else 'REQUIRED'
    if kind.WhichOneof('type_info') == 'array_type':
      kind, mode = kind.array_type.element_type, 'REPEATED'
    if kind.atomic_type not in _BIGQUERY_TYPES:
      raise TypeError(
          f'bigquery_schema: the column {field.name} is no str, bytes, bool, int '
          'or float, nor a list of them.')
    fields.append({
        'name': field.name,
        'type': _BIGQUERY_TYPES[kind.atomic_type],
        'mode': mode,
    })
  return {'fields': fields}


def _row(is_keyed, example_fn, element):
  chunk = element[1] if is_keyed else element
  columns = {'key': element[0]} if is_keyed else {}
  columns.update(_columns(chunk))
  example = chunk.example
  if example is not None and example_fn is not None:
    example = example_fn(example)
  columns['example'] = _text(example) if isinstance(example, str) else example
  return pvalue.Row(**columns)


def _plain(what, found, remedy):
  if found in _PLAIN:
    return found
  raise TypeError(
      f'AsRows: {what} of the type {found} make no column; those of str, bytes, '
      f'bool, int and float do. {remedy}.')


def _text(text):
  if text is None:
    return None
  try:
    text.encode()
  except UnicodeEncodeError:
    return text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')
  return text


def _floats(values):
  kind = values.dtype.kind
  if kind not in 'biuf':
    raise ValueError(
        f'AsRows: values of the type {values.dtype} make no column of floats. '
        'Make numbers of them before.')
  if kind in 'iu' and values.size and max(
      abs(int(values.min())), abs(int(values.max()))) > _MOST_EXACT_INT:
    raise ValueError(
        f'AsRows: {values.max()} is no float. Values that large need a column '
        'of your own.')
  return [float(value) for value in values.reshape(-1)]
