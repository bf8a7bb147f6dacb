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

"""The restriction of a text that is generated: what was emitted so far."""

import dataclasses
import random
import time
import zlib
from collections.abc import Callable

from apache_beam import coders
from apache_beam.coders import coder_impl
from apache_beam.io.iobase import RestrictionProgress
from apache_beam.io.iobase import RestrictionTracker
from apache_beam.ml.inference.iterative.emitted import Emitted
from apache_beam.ml.inference.iterative.session import Transcript

_VERSION = 1
# What of the optional parts follows.
(_SUBMITTED, _FIRST, _LAST, _ERROR, _CANCELLED,
 _FINISHED) = (1 << bit for bit in range(6))
# Shorter ones stay as they are.
_COMPRESS_FROM_BYTES = 2048
_PLAIN, _COMPRESSED = b'p', b'c'
# Tokens that a text is taken to have if nothing limits it, for progress alone.
EXPECTED_TOKENS = 256


@dataclasses.dataclass(frozen=True, slots=True)
class TranscriptRestriction:
  """A text up to some chunk, from which any worker can go on.

  Times are of ``time.time``, in seconds.

  Attributes:
    request_id: names the input.
    nonce: tells the input from others of the same request id.
    claim: of the last chunk that was claimed, at random: a session of this
      process goes on if the restriction is the one it claimed last, and not one
      from before, or that another worker went on from.
    index: of the next chunk.
    tokens: how many were emitted.
    packed: the text and the token ids that were emitted, as ``pack`` has them:
      a runner hands a restriction back and forth far oftener than a session
      needs to know what is in it.
    losses: engines that were lost since the last token.
    arrived, submitted, first, last: when the input came, when it was first
      submitted, when its first and its newest token were made.
    error: what ends it when it is first processed, ``'kind: message'``.
    is_cancelled: whether its next chunk is the last.
    is_finished: whether there is nothing left to do.
  """
  request_id: str
  nonce: int
  claim: int = 0
  index: int = 0
  tokens: int = 0
  packed: bytes = _PLAIN
  losses: int = 0
  arrived: float = 0.0
  submitted: float | None = None
  first: float | None = None
  last: float | None = None
  error: str | None = None
  is_cancelled: bool = False
  is_finished: bool = False

  def transcript(self) -> Transcript:
    text, packed_ids = unpack(self.packed)
    return Transcript(text, unpack_ids(packed_ids), self.tokens)


def new_restriction(
    request_id: str,
    error: str | None = None,
    before: Emitted = Emitted(),
    wall_clock: Callable[[], float] = time.time) -> TranscriptRestriction:
  """That of an input that was not processed yet, but maybe by another job."""
  done = before.transcript
  return TranscriptRestriction(
      request_id,
      random.getrandbits(63),
      index=before.chunks,
      tokens=done.tokens,
      packed=pack(done.text, pack_ids(done.token_ids)),
      arrived=wall_clock(),
      error=error)


def pack_ids(token_ids: tuple[int, ...]) -> bytes:
  """Token ids as varints, which can be joined without decoding them."""
  stream = coder_impl.create_OutputStream()
  for token_id in token_ids:
    stream.write_var_int64(token_id)
  return stream.get()


def unpack_ids(packed: bytes) -> tuple[int, ...]:
  stream = coder_impl.create_InputStream(packed)
  token_ids = []
  while stream.size() > 0:
    token_ids.append(stream.read_var_int64())
  return tuple(token_ids)


def pack(text: str, packed_ids: bytes) -> bytes:
  """A text and token ids as ``pack_ids`` has them, compressed if they are long.

  4,000 tokens of English take about 8 kB instead of 25.
  """
  if not text and not packed_ids:
    return _PLAIN
  # Engines may hand out half of a surrogate pair; it must survive.
  parts = [text.encode('utf-8', 'surrogatepass'), packed_ids]
  kind = _PLAIN
  if sum(map(len, parts)) > _COMPRESS_FROM_BYTES:
    kind, parts = _COMPRESSED, map(_compress, parts)
  stream = coder_impl.create_OutputStream()
  for part in parts:
    stream.write(part, True)
  return kind + stream.get()


def unpack(packed: bytes) -> tuple[str, bytes]:
  if packed == _PLAIN:
    return '', b''
  stream = coder_impl.create_InputStream(packed[1:])
  text, packed_ids = stream.read_all(True), stream.read_all(True)
  if packed[:1] == _COMPRESSED:
    text, packed_ids = zlib.decompress(text), zlib.decompress(packed_ids)
  return text.decode('utf-8', 'surrogatepass'), packed_ids


def _compress(part):
  # Words repeat, digits do not; the fastest level, as it is done for each
  # chunk: 0.4 ms for 4,000 tokens.
  smallest = None
  for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY):
    compressor = zlib.compressobj(1, strategy=strategy)
    compressed = compressor.compress(part) + compressor.flush()
    if smallest is None or len(compressed) < len(smallest):
      smallest = compressed
  return smallest


class TranscriptRestrictionTracker(RestrictionTracker):
  """Claims the chunks of a text one after another.

  A position is the restriction as it is after the chunk. A text has one owner:
  it can be checkpointed, but not be split.

  Args:
    restriction: where the text stands.
    expected_tokens: what its progress is measured against.
  """
  def __init__(
      self,
      restriction: TranscriptRestriction,
      expected_tokens: int = EXPECTED_TOKENS):
    self._restriction = restriction
    self._expected_tokens = expected_tokens
    self._is_checkpointed = False

  def current_restriction(self):
    return self._restriction

  def try_claim(self, position: TranscriptRestriction) -> bool:
    """Raises ValueError if the position does not follow on the restriction."""
    before = self._restriction
    if self._is_checkpointed:
      return False
    if before.is_finished:
      raise ValueError(f'{before.request_id!r}: the text is finished.')
    if (position.nonce != before.nonce or
        not before.index <= position.index <= before.index + 1):
      raise ValueError(
          f'{before.request_id!r}: chunk {position.index - 1} of '
          f'{position.request_id!r} does not follow {before.index - 1}.')
    self._restriction = position
    return True

  def try_split(self, fraction_of_remainder):
    if (fraction_of_remainder > 0 or self._is_checkpointed or
        self._restriction.is_finished):
      return None
    self._is_checkpointed = True
    residual = self._restriction
    self._restriction = dataclasses.replace(residual, is_finished=True)
    return self._restriction, residual

  def check_done(self):
    if not self._restriction.is_finished:
      raise ValueError(
          f'{self._restriction.request_id!r}: the text was left after chunk '
          f'{self._restriction.index - 1} without a last one.')
    return True

  def current_progress(self):
    return RestrictionProgress(
        completed=float(self._restriction.tokens),
        remaining=remaining_tokens(self._restriction, self._expected_tokens))

  def is_bounded(self):
    return True


def remaining_tokens(
    restriction: TranscriptRestriction, expected_tokens: int) -> float:
  """What is left of a text; 1 if it got longer than expected."""
  if restriction.is_finished:
    return 0.0
  return float(max(expected_tokens - restriction.tokens, 1))


class TranscriptRestrictionCoder(coders.coders.FastCoder):
  """Codes a TranscriptRestriction, without pickle, with a version in front.

  About 80 bytes and the request id, beside what is packed.
  """
  def _create_impl(self):
    return _CoderImpl()

  def is_deterministic(self):
    return True

  def to_type_hint(self):
    return TranscriptRestriction

  def __eq__(self, other):
    return type(self) is type(other)

  def __hash__(self):
    return hash(type(self))


class _CoderImpl(coder_impl.StreamCoderImpl):
  def encode_to_stream(self, value, stream, nested):
    flags = 0
    for flag, is_there in (
        (_SUBMITTED, value.submitted is not None),
        (_FIRST, value.first is not None),
        (_LAST, value.last is not None),
        (_ERROR, value.error is not None),
        (_CANCELLED, value.is_cancelled),
        (_FINISHED, value.is_finished)):
      if is_there:
        flags |= flag
    stream.write_byte(_VERSION)
    stream.write_byte(flags)
    stream.write(value.request_id.encode('utf-8', 'surrogatepass'), True)
    stream.write_bigendian_int64(value.nonce)
    stream.write_bigendian_int64(value.claim)
    for number in (value.index, value.tokens, value.losses):
      stream.write_var_int64(number)
    for seconds in (value.arrived, value.submitted, value.first, value.last):
      if seconds is not None:
        stream.write_bigendian_double(seconds)
    if flags & _ERROR:
      stream.write(value.error.encode('utf-8', 'surrogatepass'), True)
    stream.write(value.packed, True)

  def decode_from_stream(self, stream, nested):
    version = stream.read_byte()
    if version != _VERSION:
      raise ValueError(
          f'A transcript of the version {version} cannot be read by this '
          f'worker, which knows {_VERSION}. Let the workers of a job have the '
          'same version of Beam.')
    flags = stream.read_byte()
    request_id = stream.read_all(True).decode('utf-8', 'surrogatepass')
    nonce, claim = stream.read_bigendian_int64(), stream.read_bigendian_int64()
    index, tokens, losses = (stream.read_var_int64() for _ in range(3))
    arrived = stream.read_bigendian_double()
    submitted, first, last = (
        stream.read_bigendian_double() if flags & flag else None
        for flag in (_SUBMITTED, _FIRST, _LAST))
    error = None
    if flags & _ERROR:
      error = stream.read_all(True).decode('utf-8', 'surrogatepass')
    packed = stream.read_all(True)
    return TranscriptRestriction(
        request_id,
        nonce,
        claim,
        index,
        tokens,
        packed,
        losses,
        arrived,
        submitted,
        first,
        last,
        error,
        bool(flags & _CANCELLED),
        bool(flags & _FINISHED))
