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

"""A session over the continuous batching of a Hugging Face model."""

# pytype: skip-file

import atexit
import dataclasses
import itertools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from apache_beam.ml.inference.iterative.engines.huggingface.engine import new_engine
from apache_beam.ml.inference.iterative.engines.huggingface.engine import sampling_args
from apache_beam.ml.inference.iterative.engines.huggingface.engine import warn_of_ignored_settings
from apache_beam.ml.inference.iterative.engines.huggingface.generation_args import GenerationArgs
from apache_beam.ml.inference.iterative.engines.huggingface.incremental_text import IncrementalText
from apache_beam.ml.inference.iterative.engines.huggingface.prompts import PromptEncoder
from apache_beam.ml.inference.iterative.engines.mailboxes import BufferedSession
from apache_beam.ml.inference.iterative.session import Delta

_LOGGER = logging.getLogger(__name__)

# How long the dispatcher waits before it looks whether the engine is there.
_LOOK_SECS = 0.1
# A step of the model is never interrupted.
_CLOSE_SECS = 60.0


@dataclasses.dataclass
class _Generating:
  request_id: str
  prompt_tokens: int
  text: IncrementalText
  eos: frozenset[int]
  # How many tokens were pushed.
  count: int = 0


class HuggingFaceSession(BufferedSession):
  """Generates with transformers' ContinuousBatchingManager in this process.

  The engine has a thread that runs the model for all requests together, step
  by step, and the session one that hands out what each step made. Both end
  with the process.

  The cache of the engine takes ``num_blocks * page_size`` tokens of prompts
  and results, and of memory as many times 2 * layers * key-value heads * size
  of a head * bytes of a value (SmolLM2-135M in bfloat16: 23 kB a token). A
  request needs whole blocks. What does not fit waits for what runs.

  Args:
    model: a causal language model that was loaded with an attention that
      continuous batching has: 'sdpa', 'eager' or a flash attention. While the
      session is open no other thread can run it.
    tokenizer: of the model.
    do_sample: whether to draw tokens, or take the likeliest.
    chat: whether a str is what a user says, rather than a text to go on with.
    num_blocks: of the cache.
    page_size: tokens of a block.
    max_batch_tokens: the most tokens of prompts and results that one step of
      the model computes; longer prompts take several.
    clock: of ``time.monotonic``, in seconds.

  Raises:
    ValueError: if the model cannot be run so, or has no chat template but
      needs one.
    MemoryError: if the cache does not fit.
  """
  resumes = 'exact'

  def __init__(
      self,
      model: Any,
      tokenizer: Any,
      *,
      do_sample: bool = False,
      chat: bool = False,
      num_blocks: int = 64,
      page_size: int = 256,
      max_batch_tokens: int = 512,
      clock: Callable[[], float] = time.monotonic):
    super().__init__(clock)
    self._tokenizer = tokenizer
    self._do_sample = do_sample
    self._defaults = model.generation_config
    self._vocabulary = model.get_input_embeddings().num_embeddings
    self._prompts = PromptEncoder(tokenizer, self._vocabulary, chat)
    config = model.config.get_text_config()
    context = getattr(config, 'max_position_embeddings', None)
    cached = num_blocks * page_size
    self._max_tokens = min(context or cached, cached)
    self._limit = (
        "the model's context" if self._max_tokens == context else
        'the cache, of num_blocks * page_size')
    self._eos = _ids(self._defaults.eos_token_id, tokenizer.eos_token_id)
    warn_of_ignored_settings(self._defaults)
    self._manager = new_engine(
        model, do_sample, self._eos, num_blocks, page_size, max_batch_tokens)

    # Guards what follows, and that what is pushed belongs to it.
    self._lock = threading.Lock()
    # Engines cancel by id, late: each submission needs one of its own.
    self._numbers = itertools.count()
    self._engine_ids: dict[str, str] = {}
    self._generating: dict[str, _Generating] = {}
    self._death: str | None = None
    self._started = threading.Event()
    self._dispatcher = threading.Thread(
        target=self._dispatch, name='huggingface-session', daemon=True)
    self._dispatcher.start()
    self._started.wait()
    # Python does not wait for daemons, and torch aborts if cut off in a step.
    atexit.register(self.close)

  @property
  def is_alive(self):
    return not self._closed and self._death is None and self._is_running()

  def _is_running(self) -> bool:
    return (
        self._manager.is_running() and
        self._manager.background_thread_status.can_accept_new_requests()
        is None)

  def _start(self, request, resume_from):
    try:
      args = GenerationArgs.of(request.args, self._do_sample)
      prompt = self._prompts.ids(request.prompt)
    except TypeError as e:
      raise ValueError(str(e)) from e
    generated = list(resume_from.token_ids)
    if resume_from.tokens != len(generated):
      self._fail(
          request.request_id,
          f'lost: {resume_from.tokens} tokens were emitted, and the ids of '
          f'{len(generated)} are known')
      return
    room = self._max_tokens - len(prompt)
    if room <= 0:
      raise ValueError(
          f'the prompt has {len(prompt)} tokens, and there must be fewer than '
          f'{self._max_tokens} ({self._limit})')
    state = _Generating(
        request.request_id,
        len(prompt),
        IncrementalText(self._decode, args.stop, generated, resume_from.text),
        frozenset() if args.ignore_eos else self._eos)
    left = min(args.max_new_tokens, room) - len(generated)
    has_ended = bool(generated) and generated[-1] in state.eos
    if left <= 0 or has_ended:
      self._push(
          request.request_id,
          Delta(
              text=state.text.finish(),
              finish_reason='stop' if has_ended else 'length',
              prompt_tokens=len(prompt)))
    else:
      self._hand_over(state, prompt + generated, left, args)

  def _hand_over(self, state, ids, max_new_tokens, args):
    sampling = {}
    if self._do_sample:
      sampling = sampling_args(args, self._defaults, self._vocabulary)
    with self._lock:
      engine_id = str(next(self._numbers))
      if self._death is None and self._manager.add_request(
          ids,
          engine_id,
          max_new_tokens=max_new_tokens,
          streaming=True,
          eos_token_id=sorted(state.eos) or -1,
          **sampling) is not None:
        self._engine_ids[state.request_id] = engine_id
        self._generating[engine_id] = state
        return
    self._fail(
        state.request_id,
        f'engine: {self._death or "generation stopped"}',
        is_lost=True)

  def _decode(self, ids: list[int]) -> str:
    return self._tokenizer.decode(
        ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

  def _stop(self, request_id):
    with self._lock:
      engine_id = self._engine_ids.pop(request_id, None)
      if self._generating.pop(engine_id, None) is not None:
        self._manager.cancel_request(engine_id)

  def _dispatch(self):
    # A thread is a daemon if the one that starts it is.
    try:
      self._manager.start()
    finally:
      self._started.set()
    while not self._closed:
      output = self._manager.get_result(timeout=_LOOK_SECS)
      if output is not None:
        self._hand_out(output)
      elif not self._is_running():
        break
    if not self._closed:
      self._die()

  def _die(self):
    error = self._manager.background_thread_status.fatal_error
    with self._lock:
      self._death = 'generation stopped' + (
          f': {type(error).__name__}: {error}' if error else '')
      lost = list(self._generating.values())
      self._generating.clear()
      self._engine_ids.clear()
    _LOGGER.error('%d requests are lost: %s.', len(lost), self._death)
    for state in lost:
      self._fail(state.request_id, f'engine: {self._death}', is_lost=True)

  def _hand_out(self, output):
    with self._lock:
      state = self._generating.get(output.request_id)
      if state is None:
        # A cancellation is lost if it overtakes the request it is for.
        if not output.is_finished():
          self._manager.cancel_request(output.request_id)
        return
      if output.error is not None:
        # An engine that dies fails its requests first; _die follows.
        if self._is_running():
          self._fail(state.request_id, f'engine: {output.error}')
          self._forget(output)
        return
      try:
        delta = self._delta(state, output)
      except BaseException as e:  # pylint: disable=broad-except
        # Panics of tokenizers are no Exceptions; others need this thread.
        delta = Delta(
            finish_reason='error', error=f'engine: {type(e).__name__}: {e}')
      wanted = self._push(state.request_id, delta)
      if delta.finish_reason is not None or not wanted:
        self._forget(output)

  def _delta(self, state: _Generating, output) -> Delta:
    ids = output.generated_tokens[state.count:]
    state.count += len(ids)
    is_last = output.is_finished()
    at_eos = is_last and bool(ids) and ids[-1] in state.eos
    text = state.text.add(ids[:-1] if at_eos else ids)
    if is_last:
      text += state.text.finish()
    reason = None
    if at_eos or state.text.is_stopped:
      reason = 'stop'
    elif is_last:
      reason = 'length'
    return Delta(
        text=text,
        token_ids=tuple(ids),
        tokens=len(ids),
        finish_reason=reason,
        prompt_tokens=state.prompt_tokens if reason else None)

  def _forget(self, output):
    state = self._generating.pop(output.request_id)
    self._engine_ids.pop(state.request_id, None)
    if not output.is_finished():
      self._manager.cancel_request(output.request_id)

  def close(self):
    if self._closed:
      return
    super().close()
    atexit.unregister(self.close)
    self._manager.stop(timeout=_CLOSE_SECS, hard_stop=True)
    if threading.current_thread() is not self._dispatcher:
      self._dispatcher.join(_CLOSE_SECS)


def _ids(*values: int | list[int] | None) -> frozenset[int]:
  """The first that is there."""
  for value in values:
    if value is not None:
      return frozenset([value] if isinstance(value, int) else value)
  return frozenset()
