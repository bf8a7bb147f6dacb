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

"""The coder of chunks: small, and without pickle.

The form of a chunk is fixed by what its flags say: the parts that the first
version of this coder knew, one after another, and then, if there are any,
further fields of the chunk, its usage or its timings. Those have their names and
lengths, so that a reader skips what it does not know, and what the first version
wrote is read for ever.
"""

import dataclasses
import io
import struct
import typing
from typing import Any

import numpy as np

from apache_beam import coders
from apache_beam.coders import coder_impl
from apache_beam.ml.inference.iterative.chunk import FINISH_REASONS
from apache_beam.ml.inference.iterative.chunk import Chunk
from apache_beam.ml.inference.iterative.chunk import Timings
from apache_beam.ml.inference.iterative.chunk import Usage
from apache_beam.typehints import typehints

# What of the optional parts follows, the finish reason above them, and whether
# further fields follow.
_TEXT, _TOKENS, _VALUES, _ERROR, _USAGE, _TIMINGS, _MODEL, _EXAMPLE = (
    1 << bit for bit in range(8))
_REASON_SHIFT, _REASON_MASK = 8, 0xf
_FURTHER = 1 << 12
_KNOWN = (_FURTHER << 1) - 1
# Those of the first version, by the name of the part that has them.
_FIRST_FIELDS = {
    '': (
        'request_id',
        'index',
        'text',
        'token_ids',
        'values',
        'finish_reason',
        'error',
        'usage',
        'timings',
        'model_id',
        'example'),
    'usage': ('prompt_tokens', 'completion_tokens'),
    'timings': ('queued', 'first', 'total'),
}
_KINDS = {'': Chunk, 'usage': Usage, 'timings': Timings}


def _further_fields():
  """Pairs of a part and its fields that came after the first version."""
  return {
      part: [
          field for field in dataclasses.fields(kind)
          if field.name not in _FIRST_FIELDS[part]
      ]
      for part, kind in _KINDS.items()
  }


_FURTHER_FIELDS = _further_fields()


def chunk_type(example_type: Any) -> Any:
  """The type hint of chunks, so that their examples keep their own coder.

  Args:
    example_type: the type of the inputs.
  """
  hint = Chunk[example_type]
  coders.registry.register_coder(hint, ChunkCoder)
  return hint


class ChunkCoder(coders.coders.FastCoder):
  """Codes a Chunk in about 25 bytes beside its text and token ids.

  Args:
    example_coder: of the inputs.
  """
  def __init__(self, example_coder: coders.Coder):
    self._example_coder = example_coder

  @classmethod
  def from_type_hint(cls, typehint, registry):
    args = typing.get_args(typehint)
    return cls(registry.get_coder(args[0] if args else typehints.Any))

  def _create_impl(self):
    return _ChunkCoderImpl(self._example_coder.get_impl())

  def is_deterministic(self):
    return self._example_coder.is_deterministic()

  def to_type_hint(self):
    return Chunk

  def __eq__(self, other):
    return (
        type(self) is type(other) and
        self._example_coder == other._example_coder)

  def __hash__(self):
    return hash((type(self), self._example_coder))


class _ChunkCoderImpl(coder_impl.StreamCoderImpl):
  def __init__(self, example_impl):
    self._example_impl = example_impl

  def encode_to_stream(self, value, stream, nested):
    reason = 0
    if value.finish_reason is not None:
      reason = 1 + FINISH_REASONS.index(value.finish_reason)
    flags = reason << _REASON_SHIFT
    further = _further_of(value)
    if further:
      flags |= _FURTHER
    for flag, is_there in (
        (_TEXT, value.text),
        (_TOKENS, value.token_ids),
        (_VALUES, value.values is not None),
        (_ERROR, value.error is not None),
        (_USAGE, value.usage is not None),
        (_TIMINGS, value.timings is not None),
        (_MODEL, value.model_id is not None),
        (_EXAMPLE, value.example is not None)):
      if is_there:
        flags |= flag
    stream.write_var_int64(flags)
    _write_str(stream, value.request_id)
    stream.write_var_int64(value.index)
    if flags & _TEXT:
      _write_str(stream, value.text)
    if flags & _TOKENS:
      stream.write_var_int64(len(value.token_ids))
      for token_id in value.token_ids:
        stream.write_var_int64(token_id)
    if flags & _VALUES:
      buffer = io.BytesIO()
      np.save(buffer, value.values, allow_pickle=False)
      stream.write(buffer.getvalue(), True)
    if flags & _ERROR:
      _write_str(stream, value.error)
    if flags & _USAGE:
      for count in (value.usage.prompt_tokens, value.usage.completion_tokens):
        stream.write_var_int64(0 if count is None else count + 1)
    if flags & _TIMINGS:
      for seconds in (value.timings.queued,
                      value.timings.first,
                      value.timings.total):
        stream.write_bigendian_double(-1.0 if seconds is None else seconds)
    if flags & _MODEL:
      _write_str(stream, value.model_id)
    if flags & _EXAMPLE:
      self._example_impl.encode_to_stream(value.example, stream, True)
    if further:
      stream.write_var_int64(len(further))
      for name, field in further.items():
        _write_str(stream, name)
        stream.write(_pack(name, field), True)

  def decode_from_stream(self, stream, nested):
    flags = stream.read_var_int64()
    reason = flags >> _REASON_SHIFT & _REASON_MASK
    if flags & ~_KNOWN or reason > len(FINISH_REASONS):
      raise ValueError(
          f'A chunk with the flags {flags:#x} cannot be read by this worker. A '
          'later version of Beam has written it; use that.')
    request_id, index = _read_str(stream), stream.read_var_int64()
    parts = {}
    if flags & _TEXT:
      parts['text'] = _read_str(stream)
    if flags & _TOKENS:
      count = stream.read_var_int64()
      parts['token_ids'] = tuple(stream.read_var_int64() for _ in range(count))
    if flags & _VALUES:
      parts['values'] = np.load(
          io.BytesIO(stream.read_all(True)), allow_pickle=False)
    if flags & _ERROR:
      parts['error'] = _read_str(stream)
    if flags & _USAGE:
      counts = [stream.read_var_int64() for _ in range(2)]
      parts['usage'] = Usage(*(n - 1 if n else None for n in counts))
    if flags & _TIMINGS:
      queued, first, total = (stream.read_bigendian_double() for _ in range(3))
      parts['timings'] = Timings(queued, None if first < 0 else first, total)
    if flags & _MODEL:
      parts['model_id'] = _read_str(stream)
    if flags & _EXAMPLE:
      parts['example'] = self._example_impl.decode_from_stream(stream, True)
    if reason:
      parts['finish_reason'] = FINISH_REASONS[reason - 1]
    if flags & _FURTHER:
      for _ in range(stream.read_var_int64()):
        _add_further(parts, _read_str(stream), stream.read_all(True))
    return Chunk(request_id, index, **parts)


def _further_of(chunk):
  """The further fields that are not as by default, by their full name."""
  found = {}
  for part, fields in _FURTHER_FIELDS.items():
    owner = getattr(chunk, part) if part else chunk
    for field in fields:
      value = getattr(owner, field.name, field.default)
      if value != field.default:
        found[f'{part}.{field.name}' if part else field.name] = value
  return found


def _add_further(parts, name, packed):
  part, _, field = name.rpartition('.')
  known = {one.name for one in _FURTHER_FIELDS.get(part, ())}
  if field not in known:
    return
  if part:
    parts[part] = dataclasses.replace(parts[part], **{field: _unpack(packed)})
  else:
    parts[field] = _unpack(packed)


def _pack(name, value):
  """A kind and what it says: true or false, a number, or text."""
  if isinstance(value, bool):
    return b'b%c' % value
  if isinstance(value, int):
    return b'i' + value.to_bytes(8, 'big', signed=True)
  if isinstance(value, float):
    return b'd' + struct.pack('>d', value)
  if isinstance(value, str):
    return b's' + value.encode('utf-8', 'surrogatepass')
  raise TypeError(
      f'Chunk.{name}={value!r:.200}: must be a bool, an int, a float or a str.')


def _unpack(packed):
  kind, value = packed[:1], packed[1:]
  if kind == b'b':
    return value != b'\0'
  if kind == b'i':
    return int.from_bytes(value, 'big', signed=True)
  if kind == b'd':
    return struct.unpack('>d', value)[0]
  return value.decode('utf-8', 'surrogatepass')


def _write_str(stream, value):
  # Engines may hand out half of a surrogate pair; it must survive.
  stream.write(value.encode('utf-8', 'surrogatepass'), True)


def _read_str(stream):
  return stream.read_all(True).decode('utf-8', 'surrogatepass')


coders.registry.register_coder(Chunk, ChunkCoder)
