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

import threading
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from apache_beam.ml.inference.iterative.handler import SessionModelHandler
from apache_beam.ml.inference.iterative.mailboxes import BufferedSession
from apache_beam.ml.inference.iterative.session import Delta
from apache_beam.ml.inference.iterative.session import Request

__all__ = ['GeneratorModelHandler', 'GeneratorSession']

Generate = Callable[[Sequence[Any], Any, Mapping[str, Any]],
                    Iterable[tuple[int, Any]]]


class GeneratorModelHandler(SessionModelHandler):
  """Iterative inference with a generator function.

  For example, one that has a model write a word for each prompt at a time::

    def words(batch, model, args):
      for step in range(args['steps']):
        for position, word in enumerate(model.next_words(batch)):
          yield position, word

    GeneratorModelHandler(load, words, max_batch_size=8)

  Args:
    load: loads the model, once in each worker process.
    generate: takes examples, the model and the inference args, and yields pairs
      of a position in the batch and what was made for it: a str or an array,
      which count as a token each, or a ``session.Delta``. An example is done
      when a Delta with a finish reason came for it, or the generator ends. What
      it raises is the error of the examples that are not done.
    model_id: what the last chunk names as its model.
    pads: whether an example takes longer in a batch with longer ones; then
      batches are formed by length, with --experiments=smart_bucketing.
    kwargs: those of ``ModelHandler``, as max_batch_size and batch_length_fn.
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
    return GeneratorSession(self._load(), self._generate)

  def session_model_id(self):
    return self._id

  def pads_batches(self):
    return self._pads


class GeneratorSession(BufferedSession):
  """Runs one batch after another, in one thread.

  A batch is what was submitted until somebody asks for results.
  """
  def __init__(self, model: Any, generate: Generate, **kwargs):
    super().__init__(**kwargs)
    self._model = model
    self._generate = generate
    self._lock = threading.Lock()
    self._submitted: list[Request] = []
    self._asked = threading.Event()
    threading.Thread(
        target=self._run, name='GeneratorSession', daemon=True).start()

  def _start(self, request, resume_from):
    with self._lock:
      self._submitted.append(request)

  def _stop(self, request_id):
    with self._lock:
      self._submitted = [
          r for r in self._submitted if r.request_id != request_id
      ]

  def poll(self, request_id, timeout=0.0, ready=None):
    self._ask()
    return super().poll(request_id, timeout, ready)

  def wait(self, timeout):
    self._ask()
    return super().wait(timeout)

  def close(self):
    super().close()
    self._asked.set()

  def _ask(self):
    if self._submitted:
      self._asked.set()

  def _run(self):
    while self.is_alive:
      self._asked.wait()
      self._asked.clear()
      with self._lock:
        batch, self._submitted = self._submitted, []
      for args, requests in _by_args(batch):
        self._run_batch(args, requests)

  def _run_batch(self, args, requests):
    unfinished = dict(enumerate(request.request_id for request in requests))
    error = None
    try:
      made = iter(
          self._generate([r.prompt for r in requests], self._model, args))
      for position, piece in made:
        if not 0 <= position < len(requests):
          raise IndexError(
              f'it yielded the position {position!r} for a batch of '
              f'{len(requests)}')
        if position not in unfinished:
          continue
        delta = _as_delta(piece)
        # A request that was cancelled is not known any more.
        known = self._push(unfinished[position], delta)
        if not known or delta.finish_reason is not None:
          del unfinished[position]
        if not unfinished:
          break
      # A generator of the user's, which may hold something.
      getattr(made, 'close', lambda: None)()
    except Exception as e:  # pylint: disable=broad-except
      error = f'engine: the generator function raised {e!r}'
    for request_id in unfinished.values():
      if error is None:
        self._push(request_id, Delta(finish_reason='stop'))
      else:
        self._fail(request_id, error)


def _by_args(requests):
  """Parts requests by their inference args, which a batch shares."""
  groups = []
  for request in requests:
    for args, group in groups:
      if args == request.args:
        group.append(request)
        break
    else:
      groups.append((request.args, [request]))
  return groups


def _as_delta(piece):
  if isinstance(piece, Delta):
    return piece
  if isinstance(piece, str):
    return Delta(text=piece, tokens=1)
  return Delta(values=np.atleast_1d(np.asarray(piece)), tokens=1)
