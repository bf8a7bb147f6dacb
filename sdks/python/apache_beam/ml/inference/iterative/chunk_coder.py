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

"""The coder of chunks: small, and without pickle."""

import io
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

__all__ = ['ChunkCoder', 'chunk_type']

# What of the optional parts follows, and the finish reason above them.
_TEXT, _TOKENS, _VALUES, _ERROR, _USAGE, _TIMINGS, _MODEL, _EXAMPLE = (
    1 << bit for bit in range(8))
_REASON_SHIFT = 8


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

  def decode_from_stream(self, stream, nested):
    flags = stream.read_var_int64()
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
    reason = flags >> _REASON_SHIFT
    if reason:
      parts['finish_reason'] = FINISH_REASONS[reason - 1]
    return Chunk(request_id, index, **parts)


def _write_str(stream, value):
  # Engines may hand out half of a surrogate pair; it must survive.
  stream.write(value.encode('utf-8', 'surrogatepass'), True)


def _read_str(stream):
  return stream.read_all(True).decode('utf-8', 'surrogatepass')


coders.registry.register_coder(Chunk, ChunkCoder)
