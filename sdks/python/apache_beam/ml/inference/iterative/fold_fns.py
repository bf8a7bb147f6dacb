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

"""The DoFns that fold chunks, and their state."""

import dataclasses
import typing
from collections.abc import Callable
from typing import Any

from apache_beam import coders
from apache_beam import typehints
from apache_beam.ml.inference.iterative.chunk import Chunk
from apache_beam.ml.inference.iterative.ordering import Arrivals
from apache_beam.ml.inference.iterative.ordering import join
from apache_beam.ml.inference.iterative.ordering import split_at
from apache_beam.ml.inference.iterative.text_coders import TextCoder
from apache_beam.transforms.core import DoFn
from apache_beam.transforms.userstate import BagStateSpec
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec

__all__ = [
    'Fold',
    'FoldWithinBundle',
    'TextFold',
    'WholeFold',
    'WithRequestId',
    'chunk_type_of',
    'stateful'
]


@dataclasses.dataclass(frozen=True)
class WholeFold:
  """Makes outputs of the whole result, as ``ordering.join`` gives it."""
  finish: Callable[[Chunk], list]


@dataclasses.dataclass(frozen=True)
class TextFold:
  """Makes outputs with each chunk.

  Args:
    step: takes what is held, a text and a number, at first ``('', 0)``, and the
      next chunk. Returns outputs, and what to hold.
  """
  step: Callable[[tuple[str, int], Chunk], tuple[list, tuple[str, int]]]


Fold = WholeFold | TextFold


def chunk_type_of(owner: str, element_type: Any) -> tuple[bool | None, Any]:
  """Whether a PCollection is keyed, None if not known, and its chunks' type.

  Raises:
    TypeError: if it is known to hold neither chunks nor pairs with one.
  """
  is_keyed = (
      isinstance(element_type, typehints.typehints.TupleConstraint) and
      len(element_type.tuple_types) == 2)
  found = element_type.tuple_types[1] if is_keyed else element_type
  origin = typing.get_origin(found) or found
  if isinstance(origin, type) and issubclass(origin, Chunk):
    return is_keyed, found
  if isinstance(origin, type) and origin not in (object, tuple, Any):
    raise TypeError(
        f'{owner}: takes chunks, or pairs of a key and a chunk, as RunInference '
        f'gives them with iterative=..., not elements of type {element_type}.')
  return None, Chunk


def _key_and_chunk(owner, element):
  """A list that holds the key, if there is one, and the chunk."""
  if isinstance(element, Chunk):
    return [], element
  if (isinstance(element, tuple) and len(element) == 2 and
      isinstance(element[1], Chunk)):
    return [element[0]], element[1]
  raise TypeError(
      f'{owner}: takes chunks, or pairs of a key and a chunk, as RunInference '
      f'gives them with iterative=..., not {element!r:.200}.')


def _with_key(key, outputs):
  return [(key[0], output) for output in outputs] if key else outputs


class WithRequestId(DoFn):
  """Pairs each element with the request id of its chunk."""
  def __init__(self, owner: str):
    self._owner = owner

  def process(self, element):
    yield _key_and_chunk(self._owner, element)[1].request_id, element


class FoldWithinBundle(DoFn):
  """Folds in memory what comes in order and in one bundle."""
  def __init__(self, owner: str, fold: Fold):
    self._owner = owner
    self._fold = fold

  def start_bundle(self):
    # By window and request: the next index and what is held.
    self._unfinished = {}

  def process(self, element, window=DoFn.WindowParam):
    key, chunk = _key_and_chunk(self._owner, element)
    request = window, chunk.request_id
    index, held = self._unfinished.pop(request, (0, None))
    if chunk.index != index:
      self._refuse(chunk.request_id, f'chunk {chunk.index} came, not {index}')
    if isinstance(self._fold, TextFold):
      outputs, held = self._fold.step(held or ('', 0), chunk)
    else:
      held = held or []
      held.append(chunk)
      outputs = self._fold.finish(join(held)) if chunk.is_last else []
    if not chunk.is_last:
      self._unfinished[request] = index + 1, held
    yield from _with_key(key, outputs)

  def finish_bundle(self):
    for _, request_id in self._unfinished:
      self._refuse(request_id, 'its last chunk is not in the same bundle')

  def _refuse(self, request_id, what):
    raise ValueError(
        f'{self._owner}(within_bundle=True): request {request_id!r}: {what}. Put '
        "it right behind RunInference in the mode 'in_bundle', or leave "
        'within_bundle out. Two inputs must not have one request id.')


def _note(owner, seen_state, chunk):
  """Adds a chunk to the arrivals in state, and returns them."""
  arrivals = Arrivals(seen_state.read() or (0, ))
  try:
    arrivals.add(chunk)
  except ValueError as e:
    raise ValueError(f'{owner}: {e}') from None
  return arrivals


def stateful(owner: str, fold: Fold, chunk_type: Any) -> DoFn:
  """A DoFn of (request id, element) pairs that folds chunks in any order.

  Args:
    owner: the transform that errors name.
    fold: what to make of the chunks.
    chunk_type: of the chunks in state.
  """
  chunk_coder = coders.registry.get_coder(chunk_type)
  make = _whole_do_fn if isinstance(fold, WholeFold) else _text_do_fn
  return make(owner, fold, chunk_coder)


_ARRIVALS_CODER = coders.TupleSequenceCoder(coders.VarIntCoder())


def _whole_do_fn(owner, fold, chunk_coder):
  SEEN = ReadModifyWriteStateSpec('seen', _ARRIVALS_CODER)
  # A bag grows by what is added; a value would be written anew with each chunk.
  CHUNKS = BagStateSpec('chunks', chunk_coder)

  class _WholeDoFn(DoFn):
    def process(
        self,
        element,
        seen_state=DoFn.StateParam(SEEN),
        chunks=DoFn.StateParam(CHUNKS)):
      key, chunk = _key_and_chunk(owner, element[1])
      arrivals = _note(owner, seen_state, chunk)
      if not arrivals.are_complete:
        chunks.add(chunk)
        seen_state.write(arrivals.state)
        return
      whole = join([*chunks.read(), chunk])
      chunks.clear()
      seen_state.clear()
      yield from _with_key(key, fold.finish(whole))

  return _WholeDoFn()


def _text_do_fn(owner, fold, chunk_coder):
  SEEN = ReadModifyWriteStateSpec('seen', _ARRIVALS_CODER)
  WAITING = BagStateSpec('waiting', chunk_coder)
  HELD = ReadModifyWriteStateSpec(
      'held', coders.TupleCoder((TextCoder(), coders.VarIntCoder())))

  class _TextDoFn(DoFn):
    def process(
        self,
        element,
        seen_state=DoFn.StateParam(SEEN),
        waiting=DoFn.StateParam(WAITING),
        held_state=DoFn.StateParam(HELD)):
      key, chunk = _key_and_chunk(owner, element[1])
      arrivals = _note(owner, seen_state, chunk)
      ready = []
      if arrivals.next <= chunk.index:
        waiting.add(chunk)
      else:
        ready.append(chunk)
      if arrivals.next > chunk.index + 1:
        before, behind = split_at(waiting.read(), arrivals.next)
        ready += before
        waiting.clear()
        for other in behind:
          waiting.add(other)
      held = (held_state.read() if ready else None) or ('', 0)
      for one in ready:
        outputs, held = fold.step(held, one)
        yield from _with_key(key, outputs)
      if arrivals.are_complete:
        seen_state.clear()
        held_state.clear()
        return
      seen_state.write(arrivals.state)
      if ready:
        held_state.write(held)

  return _TextDoFn()
