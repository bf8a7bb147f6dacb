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
import logging
import time
import typing
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

from apache_beam import coders
from apache_beam import typehints
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.iterative.chunk import Chunk
from apache_beam.ml.inference.iterative.folds.incomplete import Incomplete
from apache_beam.ml.inference.iterative.folds.text_coders import TextCoder
from apache_beam.ml.inference.iterative.ordering import join
from apache_beam.ml.inference.iterative.ordering import split_at
from apache_beam.transforms.core import DoFn
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec
from apache_beam.transforms.userstate import TimerSpec
from apache_beam.transforms.userstate import on_timer
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp

_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class WholeFold:
  """Makes outputs of the whole result, as ``ordering.join`` gives it."""
  finish: Callable[[Chunk], list]

  def outputs(self, whole: Chunk) -> list:
    """None for an input that is among the dead letters."""
    return [] if whole.dead_lettered else self.finish(whole)


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
      outputs = self._fold.outputs(join(held)) if chunk.is_last else []
    if not chunk.is_last:
      self._unfinished[request] = index + 1, held
    yield from _with_key(key, outputs)

  def finish_bundle(self):
    for _, request_id in self._unfinished:
      self._refuse(request_id, 'its last chunk is not in the same bundle')

  def _refuse(self, request_id, what):
    raise ValueError(
        f'{self._owner}(within_bundle=True): request {request_id!r}: {what}. Put '
        "it right after RunInference in the mode 'in_bundle', or leave "
        'within_bundle out. Two inputs must not have one request id.')


_SEEN_CODER = coders.TupleSequenceCoder(coders.VarIntCoder())
_HELD_CODER = coders.TupleCoder((TextCoder(), coders.VarIntCoder()))


def _now():
  return time.time()


class _States(NamedTuple):
  """The state of a request."""
  # What Incomplete has as its state.
  seen: Any
  # Chunks. A bag grows by what is added; a value would be written anew with
  # each chunk.
  waiting: Any
  # What a TextFold holds.
  held: Any
  # The user's key, if chunks have one.
  key: Any

  def clear(self):
    for state in self:
      state.clear()


class _Timers(NamedTuple):
  """What becomes of the timers of a request."""
  # Whether to set that of the end of the window.
  set_window_end: bool = False
  # When that of real time is to fire, if it is to be set.
  deadline: Timestamp | None = None
  # Whether to clear all of them.
  clear: bool = False


class _Folder:
  """Folds the chunks of a request, whose state it is given.

  Args:
    owner: the transform that errors name.
    fold: what to make of the chunks.
    give_up_secs: how long to wait for a chunk.
  """
  def __init__(self, owner, fold, give_up_secs):
    self._owner = owner
    self._fold = fold
    self._give_up_secs = give_up_secs

  def add(self, element, timestamp, states):
    """Takes a pair of a request id and an element.

    Returns:
      Outputs, and what becomes of its timers.
    """
    key, chunk = _key_and_chunk(self._owner, element[1])
    state = states.seen.read()
    request = Incomplete(state)
    try:
      request.arrivals.add(chunk)
    except ValueError as e:
      raise ValueError(f'{self._owner}: {e}') from None
    add = self._add_whole if isinstance(
        self._fold, WholeFold) else self._add_text
    outputs = add(chunk, request.arrivals, states, state is None)
    if request.arrivals.are_complete:
      if state is not None:
        states.clear()
      return _with_key(key, outputs), _Timers(clear=state is not None)
    request.newest_msec = round(1000 * _now())
    stamp = timestamp.micros
    if state is not None:
      stamp = max(stamp, request.stamp_micros)
    elif key:
      states.key.write(key[0])
    request.stamp_micros = stamp
    deadline = None
    if self._give_up_secs is not None and not request.timer_msec:
      request.timer_msec = request.give_up_msec(self._give_up_secs)
      deadline = Timestamp(micros=1000 * request.timer_msec)
    states.seen.write(request.state)
    return _with_key(key, outputs), _Timers(state is None, deadline)

  def _add_whole(self, chunk, arrivals, states, is_new):
    if not arrivals.are_complete:
      states.waiting.add(chunk)
      return []
    before = [] if is_new else states.waiting.read()
    return self._fold.outputs(join([*before, chunk]))

  def _add_text(self, chunk, arrivals, states, is_new):
    ready = []
    if arrivals.next <= chunk.index:
      states.waiting.add(chunk)
    else:
      ready.append(chunk)
    if arrivals.next > chunk.index + 1:
      before, after = split_at(states.waiting.read(), arrivals.next)
      ready += before
      states.waiting.clear()
      for other in after:
        states.waiting.add(other)
    held = (states.held.read() if ready and not is_new else None) or ('', 0)
    all_outputs = []
    for one in ready:
      outputs, held = self._fold.step(held, one)
      all_outputs += outputs
    if ready and not arrivals.are_complete:
      states.held.write(held)
    return all_outputs

  def deadline(self, request_id, window, timestamp, states, timer):
    """Gives a request up that is due. It may be complete, or not due yet.

    Returns:
      Outputs, and whether it is given up.
    """
    state = states.seen.read()
    if state is None:
      return [], False
    request = Incomplete(state)
    due = request.give_up_msec(self._give_up_secs)
    if due <= 1000 * _now():
      why = f'in {self._give_up_secs:g} s'
      return self._give_up(request, request_id, why, window, states), True
    early = request.timer_msec / 1000 - _now()
    if not request.timer_msec or early > self._give_up_secs / 2:
      # Some runners fire it at once. Set here it may do so again and again; the
      # next chunk sets it. Clocks of runners and workers differ by less.
      request.timer_msec = 0
    else:
      request.timer_msec = due
      # Whoever sets a timer holds the watermark at its own timestamp.
      request.stamp_micros = max(request.stamp_micros, timestamp.micros)
      timer.set(Timestamp(micros=1000 * due))
    states.seen.write(request.state)
    return [], False

  def window_end(self, request_id, window, states):
    state = states.seen.read()
    if state is None:
      return []
    why = 'before the end of its window, or of the input'
    return self._give_up(Incomplete(state), request_id, why, window, states)

  def _give_up(self, request, request_id, why, window, states):
    key, waiting = states.key.read(), list(states.waiting.read())
    keys = [] if key is None else [key]
    before, beyond = split_at(waiting, request.arrivals.next)
    last = next((chunk for chunk in beyond if chunk.is_last), None)
    end = request.end(request_id, why, last)
    _LOGGER.warning('%s: %s', self._owner, end.error)
    Metrics.counter(self._owner, 'incomplete_requests').inc()
    if isinstance(self._fold, WholeFold):
      outputs = self._fold.outputs(join([*before, end]))
    else:
      outputs, _ = self._fold.step(states.held.read() or ('', 0), end)
    states.clear()
    stamp = Timestamp(micros=request.stamp_micros)
    stamp = min(stamp, window.max_timestamp())
    return [
        TimestampedValue(output, stamp) for output in _with_key(keys, outputs)
    ]


def stateful(
    owner: str,
    fold: Fold,
    chunk_type: Any,
    key_type: Any = typehints.Any,
    give_up_secs: float | None = None) -> DoFn:
  """A DoFn of (request id, element) pairs that folds chunks in any order.

  A request that is not complete at the end of its window, or of which nothing
  arrives for some time, ends with an error, and leaves no state.

  Args:
    owner: the transform that errors name.
    fold: what to make of the chunks.
    chunk_type: of the chunks in state.
    key_type: of the keys of elements, if they have keys.
    give_up_secs: how long to wait for a chunk; None: until the window ends.
  """
  specs = _States(
      ReadModifyWriteStateSpec('seen', _SEEN_CODER),
      BagStateSpec('waiting', coders.registry.get_coder(chunk_type)),
      ReadModifyWriteStateSpec('held', _HELD_CODER),
      ReadModifyWriteStateSpec('key', coders.registry.get_coder(key_type)))
  # The direct runner chooses another runner for a DoFn that has a timer of real
  # time, used or not.
  make = _do_fn if give_up_secs is None else _timed_do_fn
  return make(specs, _Folder(owner, fold, give_up_secs))


def _do_fn(specs, folder):
  SEEN, WAITING, HELD, KEY = specs
  WINDOW_END = TimerSpec('window_end', TimeDomain.WATERMARK)

  class _FoldDoFn(DoFn):
    def process(
        self,
        element,
        window=DoFn.WindowParam,
        timestamp=DoFn.TimestampParam,
        seen=DoFn.StateParam(SEEN),
        waiting=DoFn.StateParam(WAITING),
        held=DoFn.StateParam(HELD),
        key=DoFn.StateParam(KEY),
        window_end=DoFn.TimerParam(WINDOW_END)):
      states = _States(seen, waiting, held, key)
      outputs, timers = folder.add(element, timestamp, states)
      if timers.set_window_end:
        window_end.set(window.max_timestamp())
      if timers.clear:
        window_end.clear()
      return outputs

    @on_timer(WINDOW_END)
    def on_window_end(
        self,
        window=DoFn.WindowParam,
        request_id=DoFn.KeyParam,
        seen=DoFn.StateParam(SEEN),
        waiting=DoFn.StateParam(WAITING),
        held=DoFn.StateParam(HELD),
        key=DoFn.StateParam(KEY)):
      states = _States(seen, waiting, held, key)
      return folder.window_end(request_id, window, states)

  return _FoldDoFn()


def _timed_do_fn(specs, folder):
  SEEN, WAITING, HELD, KEY = specs
  WINDOW_END = TimerSpec('window_end', TimeDomain.WATERMARK)
  DEADLINE = TimerSpec('deadline', TimeDomain.REAL_TIME)

  class _TimedFoldDoFn(DoFn):
    def process(
        self,
        element,
        window=DoFn.WindowParam,
        timestamp=DoFn.TimestampParam,
        seen=DoFn.StateParam(SEEN),
        waiting=DoFn.StateParam(WAITING),
        held=DoFn.StateParam(HELD),
        key=DoFn.StateParam(KEY),
        window_end=DoFn.TimerParam(WINDOW_END),
        deadline=DoFn.TimerParam(DEADLINE)):
      states = _States(seen, waiting, held, key)
      outputs, timers = folder.add(element, timestamp, states)
      if timers.set_window_end:
        window_end.set(window.max_timestamp())
      if timers.deadline is not None:
        deadline.set(timers.deadline)
      if timers.clear:
        window_end.clear()
        deadline.clear()
      return outputs

    @on_timer(DEADLINE)
    def on_deadline(
        self,
        window=DoFn.WindowParam,
        timestamp=DoFn.TimestampParam,
        request_id=DoFn.KeyParam,
        seen=DoFn.StateParam(SEEN),
        waiting=DoFn.StateParam(WAITING),
        held=DoFn.StateParam(HELD),
        key=DoFn.StateParam(KEY),
        window_end=DoFn.TimerParam(WINDOW_END),
        deadline=DoFn.TimerParam(DEADLINE)):
      states = _States(seen, waiting, held, key)
      outputs, gave_up = folder.deadline(
          request_id, window, timestamp, states, deadline)
      if gave_up:
        window_end.clear()
      return outputs

    @on_timer(WINDOW_END)
    def on_window_end(
        self,
        window=DoFn.WindowParam,
        request_id=DoFn.KeyParam,
        seen=DoFn.StateParam(SEEN),
        waiting=DoFn.StateParam(WAITING),
        held=DoFn.StateParam(HELD),
        key=DoFn.StateParam(KEY),
        deadline=DoFn.TimerParam(DEADLINE)):
      states = _States(seen, waiting, held, key)
      outputs = folder.window_end(request_id, window, states)
      # A runner waits for a timer that is set, even after the last window.
      deadline.clear()
      return outputs

  return _TimedFoldDoFn()
