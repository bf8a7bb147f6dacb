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

"""Makes a session of a plain generator function of a batch."""

import contextlib
import dataclasses
import operator
import threading
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from apache_beam.ml.inference.iterative.chunk import FINISH_REASONS
from apache_beam.ml.inference.iterative.engines.batch_queue import BatchLimits
from apache_beam.ml.inference.iterative.engines.batch_queue import BatchQueue
from apache_beam.ml.inference.iterative.engines.mailboxes import BufferedSession
from apache_beam.ml.inference.iterative.handler import SessionModelHandler
from apache_beam.ml.inference.iterative.session import Delta

# A step of the model is never interrupted.
_CLOSE_SECS = 60.0

Generate = Callable[[Sequence[Any], Any, Mapping[str, Any]],
                    Iterable[tuple[int, Any]]]


class GeneratorModelHandler(SessionModelHandler):
  """Iterative inference with a generator function.

  For example, a model that adds one word to each prompt at a time::

    def words(batch, model, args):
      for step in range(args['steps']):
        for position, word in enumerate(model.next_words(batch)):
          yield position, word

    GeneratorModelHandler(load, words, max_batch_size=8)

  Args:
    load: loads the model, once in each worker process.
    generate: takes the examples of a batch, the model and the inference args.
      Yields pairs of a position in the batch and what was made for it: a str or
      an array, each of which counts as a token, or a ``Delta``. An example ends
      with a Delta that has a finish reason, or with the generator. An exception
      is the error of all examples that have not ended.
    model_id: the model_id of chunks.
    pads: whether an example takes longer in a batch with longer ones. Then
      batches are formed by length, with --experiments=smart_bucketing.
    kwargs: those of ``ModelHandler``, such as max_batch_size and
      batch_length_fn. A batch that is smaller than min_batch_size waits 0.1 s
      for one more example.
  """
  def __init__(
      self,
      load: Callable[[], Any],
      generate: Generate,
      *,
      model_id: str | None = None,
      pads: bool = True,
      **kwargs):
    super().__init__(**kwargs)
    self._load = load
    self._generate = generate
    self._id = model_id
    self._pads = pads

  def open_session(self):
    kwargs = self.batch_elements_kwargs()
    names = [field.name for field in dataclasses.fields(BatchLimits)]
    limits = BatchLimits(
        **{name: kwargs[name]
           for name in names if name in kwargs})
    return GeneratorSession(
        self._load(), self._generate, limits, type(self).__name__)

  def session_model_id(self):
    return self._id

  def pads_batches(self):
    return self._pads


class GeneratorSession(BufferedSession):
  """Runs one batch after another, in one thread.

  A first batch is made of what was submitted until somebody asks for results,
  and then one after another until nothing waits.

  Args:
    model: what the generator function takes.
    generate: the generator function.
    limits: of a batch.
    owner: the handler that errors name.
  """
  def __init__(
      self,
      model: Any,
      generate: Generate,
      limits: BatchLimits = BatchLimits(),
      owner: str = 'GeneratorModelHandler',
      **kwargs):
    super().__init__(**kwargs)
    self._model = model
    self._generate = generate
    self._owner = owner
    self._lock = threading.Lock()
    self._queue = BatchQueue(limits, self._clock)
    # Not to be mixed with what other threads submit.
    self._submitting = threading.RLock()
    self._batch: list | None = None
    self._asked = threading.Event()
    self._thread = threading.Thread(
        target=self._run, name='GeneratorSession', daemon=True)
    self._thread.start()

  def submit(self, request, resume_from=None):
    with self._submitting:
      super().submit(request, resume_from)

  def submit_batch(self, requests, fixed):
    with self._submitting:
      self._batch = []
      try:
        for request in requests:
          self.submit(request)
      finally:
        batch, self._batch = self._batch, None
        with self._lock:
          self._queue.add_batch(batch, fixed)

  def _start(self, request, resume_from):
    entry = self._queue.entry(request)
    if self._batch is not None:
      self._batch.append(entry)
      return
    with self._lock:
      self._queue.add(entry)

  def _stop(self, request_id):
    with self._lock:
      self._queue.remove(request_id)

  def poll(self, request_id, timeout=0.0, ready=None):
    self._ask()
    return super().poll(request_id, timeout, ready)

  def wait(self, timeout):
    self._ask()
    return super().wait(timeout)

  def close(self):
    super().close()
    self._asked.set()
    if threading.current_thread() is not self._thread:
      # Python cuts off threads at its end; a model amid C++ would abort then.
      self._thread.join(_CLOSE_SECS)

  def _ask(self):
    if len(self._queue):
      self._asked.set()

  def _run(self):
    while self.is_alive:
      self._asked.wait()
      self._asked.clear()
      while self.is_alive and (batch := self._take()):
        begun = self._clock()
        self._run_batch(batch)
        with self._lock:
          self._queue.learn(batch, self._clock() - begun)

  def _take(self):
    while True:
      with self._lock:
        secs = self._queue.wait_secs()
        if not secs:
          return self._queue.take()
      time.sleep(secs)

  def _run_batch(self, requests):
    pieces = _Pieces(self._owner, len(requests))
    unfinished = dict(enumerate(request.request_id for request in requests))
    error = None
    try:
      prompts = [request.prompt for request in requests]
      made = self._generate(prompts, self._model, requests[0].args)
      with contextlib.closing(pieces.of(made)) as deltas:
        for position, delta in deltas:
          if position not in unfinished:
            continue
          # A request that was cancelled is not known any more.
          known = self._push(unfinished[position], delta)
          if not known or delta.finish_reason is not None:
            del unfinished[position]
          if not unfinished or not self.is_alive:
            break
    except _WrongPiece as e:
      error = f'engine: {e}'
    except BaseException as e:  # pylint: disable=broad-except
      # Panics of Rust are no Exceptions, and the next batch needs this thread.
      error = f'engine: the generator function raised {e!r}'
    for request_id in unfinished.values():
      if error is None:
        self._push(request_id, Delta(finish_reason='stop'))
      else:
        self._fail(request_id, error)


class _WrongPiece(ValueError):
  pass


class _Pieces:
  """Checks what a generator function yields for a batch.

  Args:
    owner: the handler that errors name.
    size: of the batch.
  """
  def __init__(self, owner, size):
    self._owner = owner
    self._size = size
    # The axes of arrays but the first, by position.
    self._shapes: dict[int, tuple[int, ...]] = {}

  def of(self, made):
    """Yields pairs of a position and a Delta, and closes what made them."""
    if not isinstance(made, Iterable):
      raise self._wrong(f'the generator function returned {made!r:.200}')
    try:
      for index, item in enumerate(made):
        yield self._checked(index, item)
    finally:
      # A generator of the user's, which may hold something.
      getattr(made, 'close', lambda: None)()

  def _checked(self, index, item):
    what = f'item {index} that the generator function yielded'
    try:
      position, piece = item
    except (TypeError, ValueError):
      raise self._wrong(f'{what} is {item!r:.200}') from None
    if (not isinstance(position, (int, np.integer)) or
        isinstance(position, bool) or not 0 <= position < self._size):
      raise self._wrong(
          f'{what} has the position {position!r:.200} for a batch of '
          f'{self._size}')
    what = f'{what}, for position {position},'
    try:
      delta = _as_delta(piece)
    except Exception as e:
      raise self._wrong(f'{what} is {piece!r:.200} ({e})') from e
    if delta.values is not None:
      shape = delta.values.shape[1:]
      if self._shapes.setdefault(int(position), shape) != shape:
        raise self._wrong(
            f'{what} is an array of the shape {delta.values.shape}, which '
            'cannot be joined along the first axis with the one before it, of '
            f'the shape (n, {str(self._shapes[int(position)])[1:]}')
    return int(position), delta

  def _wrong(self, what):
    return _WrongPiece(
        f'{self._owner}: {what}. Yield pairs of a position in the batch, from 0 '
        f'to {self._size - 1}, and what was made for it: a str, an array of '
        'numbers, or a session.Delta.')


def _as_delta(piece):
  if isinstance(piece, str):
    return Delta(text=piece, tokens=1)
  if not isinstance(piece, Delta):
    return Delta(values=_as_array(piece), tokens=1)
  if not isinstance(piece.text, str):
    raise TypeError('its text is no str')
  if piece.finish_reason not in (None, *FINISH_REASONS):
    raise ValueError(f'its finish_reason is none of {FINISH_REASONS}')
  if not isinstance(piece.error, (str, type(None))):
    raise TypeError('its error is no str')
  error = piece.error
  if piece.finish_reason == 'error' and not error:
    error = 'engine: the generator function gave no reason'
  values = piece.values
  return dataclasses.replace(
      piece,
      # Any ints, such as those of an array; others raise.
      token_ids=tuple(map(operator.index, piece.token_ids)),
      tokens=operator.index(piece.tokens),
      error=error,
      values=None if values is None else _as_array(values))


def _as_array(values):
  array = np.atleast_1d(np.asarray(values))
  if array.dtype.hasobject:
    raise TypeError(f'an array of objects of type {type(values).__name__}')
  return array
