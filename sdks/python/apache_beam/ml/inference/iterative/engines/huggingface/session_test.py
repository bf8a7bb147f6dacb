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

"""The session over continuous batching: faults, limits, and going on."""

# pytype: skip-file

import functools
import logging
import subprocess
import sys
import threading
import time
import unittest

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from apache_beam.ml.inference.iterative.session import Delta
from apache_beam.ml.inference.iterative.session import DuplicateRequest
from apache_beam.ml.inference.iterative.session import Request
from apache_beam.ml.inference.iterative.session import Transcript

try:
  import torch

  from apache_beam.ml.inference.iterative.engines.huggingface.session import HuggingFaceSession
  from apache_beam.testing.inference.models import tiny_model
  from apache_beam.testing.inference.models import tokenizer
except ImportError:
  raise unittest.SkipTest('PyTorch or transformers is missing.')

# Models are not shared between threads.
REFERENCE = tiny_model()
TOKENIZER = tokenizer()
PROMPTS = ['To be or not to be', 'é', 'Once upon a time there was', '12 ' * 40]


def open_session(**kwargs):
  kwargs = {'page_size': 16, **kwargs}
  model = kwargs.pop('model', None) or tiny_model()
  return HuggingFaceSession(model, TOKENIZER, **kwargs)


def request(name, prompt='To be or not to be', tokens=16, **args):
  return Request(
      name, prompt, {
          'max_new_tokens': tokens, 'ignore_eos': True, **args
      })


def until(condition, timeout=30):
  deadline = time.monotonic() + timeout
  while not condition():
    if time.monotonic() > deadline:
      raise AssertionError('It did not happen in time.')
    time.sleep(0.002)


def finish(session, name):
  whole = Delta()
  while whole.finish_reason is None:
    delta = session.poll(name, timeout=30)
    if delta is None:
      raise AssertionError(f'Nothing came for {name}.')
    whole += delta
  return whole


def some_of(session, name, tokens):
  """At least so many tokens."""
  delta = session.poll(name, 30, ready=lambda delta: delta.tokens >= tokens)
  assert delta.finish_reason is None, delta
  return delta


def transcript(delta):
  return Transcript(delta.text, delta.token_ids, delta.tokens)


def generate(prompt, tokens):
  """(ids, text), of model.generate for one prompt alone."""
  ids = prompt if isinstance(prompt, list) else TOKENIZER(prompt)['input_ids']
  with torch.no_grad():
    out = REFERENCE.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        do_sample=False,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        pad_token_id=0)
  ids = out[0, len(ids):].tolist()
  return tuple(ids), TOKENIZER.decode(ids, skip_special_tokens=True)


def used_blocks(session):
  cache = session._manager.batch_processor.cache
  return sum(
      len(blocks) for allocator in cache.cache_allocators.values()
      for blocks in allocator.block_table.values())


class HuggingFaceSessionTest(unittest.TestCase):
  def setUp(self):
    self.session = self.opened()

  def opened(self, **kwargs):
    session = open_session(**kwargs)
    self.addCleanup(session.close)
    return session

  def test_the_engine_logs_no_progress(self):
    engine_logger = logging.getLogger('ContinuousBatchingLogger')
    self.assertFalse(engine_logger.isEnabledFor(logging.INFO))

  def test_greedy_results_are_those_of_generate(self):
    for i, prompt in enumerate(PROMPTS):
      self.session.submit(request(str(i), prompt, 24))
    for i, prompt in enumerate(PROMPTS):
      whole = finish(self.session, str(i))
      self.assertEqual((whole.token_ids, whole.text), generate(prompt, 24))
      self.assertEqual(whole.finish_reason, 'length')
      self.assertEqual((whole.prompt_tokens, whole.tokens),
                       (len(TOKENIZER(prompt)['input_ids']), 24))
      self.assertFalse(self.session.knows(str(i)))

  def test_an_end_of_sequence_token_ends_a_result(self):
    ids, _ = generate(PROMPTS[0], 16)
    model = tiny_model()
    model.generation_config.eos_token_id = [2, ids[9]]
    session = self.opened(model=model)
    session.submit(request('stops', PROMPTS[0], ignore_eos=False))
    session.submit(request('goes on', PROMPTS[0]))
    end = ids.index(ids[9]) + 1
    whole = finish(session, 'stops')
    self.assertEqual(whole.finish_reason, 'stop')
    self.assertEqual(whole.token_ids, ids[:end])
    self.assertEqual(
        whole.text, TOKENIZER.decode(ids[:end - 1], skip_special_tokens=True))
    self.assertEqual(finish(session, 'goes on').token_ids, ids)

  def test_a_stop_string_ends_the_work(self):
    ids, text = generate(PROMPTS[0], 100)
    stop = text[30:34]
    self.session.submit(request('a', PROMPTS[0], 450, stop=stop))
    whole = finish(self.session, 'a')
    self.assertEqual(whole.text, text[:text.index(stop)])
    self.assertEqual(whole.finish_reason, 'stop')
    self.assertEqual(whole.token_ids, ids[:whole.tokens])
    until(lambda: used_blocks(self.session) == 0)
    self.assertLess(self.session._manager.current_batch, 100)

  @settings(deadline=None, max_examples=12)
  @given(st.integers(0, 16), st.sampled_from(PROMPTS))
  def test_resumed_at_any_token(self, index, prompt):
    ids, text = generate(prompt, 16)
    self.session.submit(request('first', prompt, 16))
    before = Delta()
    while before.tokens < index:
      before += self.session.poll('first', 30)
    self.session.cancel('first')
    self.session.submit(request('again', prompt, 16), transcript(before))
    whole = before + finish(self.session, 'again')
    self.assertEqual((whole.token_ids, whole.text), (ids, text))
    self.assertEqual(whole.finish_reason, 'length')
    self.assertEqual((whole.prompt_tokens, whole.tokens),
                     (len(TOKENIZER(prompt)['input_ids']), 16))

  def test_text_that_was_held_back_comes_when_no_token_is_left(self):
    ids = TOKENIZER('a🦜')['input_ids']
    self.session.submit(
        request('a', tokens=len(ids)), Transcript('a', tuple(ids), len(ids)))
    delta = self.session.poll('a')
    self.assertEqual((delta.text, delta.tokens), ('🦜', 0))
    self.assertEqual(delta.finish_reason, 'length')

  def test_what_was_emitted_but_is_not_known_cannot_be_resumed(self):
    self.session.submit(request('a'), Transcript('some', (), 2))
    self.assertRegex(finish(self.session, 'a').error, '^lost: 2 tokens were')

  def test_no_tokens_are_wanted(self):
    self.session.submit(request('a', tokens=0))
    delta = self.session.poll('a')
    self.assertEqual((delta.finish_reason, delta.tokens, delta.text),
                     ('length', 0, ''))
    self.assertEqual(delta.prompt_tokens, 6)

  def test_poisoned_prompts_end_alone(self):
    poisoned = {
        'empty': ('', 'the prompt is empty'),
        'no ids': ([], 'the prompt is empty'),
        'unknown id': ([1, 49152], 'the token id 49152 is not among'),
        'negative id': ([-1], 'the token id -1 is not among'),
        'too long': ([5] * 512, 'the prompt has 512 tokens'),
        'no text': ('\ud800', ''),
        'nothing': (None, ''),
        'turns': ([{
            'role': 7
        }], 'the chat template refuses the prompt'),
    }
    self.session.submit(request('good', PROMPTS[0], 24))
    for name, (prompt, _) in poisoned.items():
      self.session.submit(request(name, prompt))
    self.session.submit(request('argument', temperature=1.0))
    self.session.submit(request('type', stop=1))
    self.session.submit(request('good too', PROMPTS[2], 24))
    for name, (_, message) in poisoned.items():
      delta = self.session.poll(name)
      self.assertTrue(delta.error.startswith(f'invalid: {message}'), delta)
      self.assertFalse(delta.is_lost)
    self.assertRegex(self.session.poll('argument').error, '^invalid: .*do_samp')
    self.assertRegex(self.session.poll('type').error, '^invalid: .*stop=1')
    self.assertEqual(
        finish(self.session, 'good').token_ids, generate(PROMPTS[0], 24)[0])
    self.assertEqual(
        finish(self.session, 'good too').token_ids, generate(PROMPTS[2], 24)[0])

  def test_a_request_that_the_engine_refuses_ends_alone(self):
    self.session.submit(request('good'))
    add = self.session._manager.add_request
    self.session._manager.add_request = functools.partial(add, unheard_of=1)
    self.session.submit(request('bad'))
    self.assertRegex(finish(self.session, 'bad').error, '^engine: .*unheard_of')
    self.assertEqual(finish(self.session, 'good').finish_reason, 'length')
    self.assertTrue(self.session.is_alive)

  def test_text_that_cannot_be_decoded_ends_its_request_alone(self):
    decode = self.session._decode
    odd = generate(PROMPTS[2], 16)[0][4]

    def failing(ids):
      if odd in ids:
        raise RuntimeError('odd token')
      return decode(ids)

    self.session._decode = failing
    self.session.submit(request('bad', PROMPTS[2]))
    self.session.submit(request('good', PROMPTS[0]))
    self.assertEqual(
        finish(self.session, 'bad').error, 'engine: RuntimeError: odd token')
    self.assertEqual(
        finish(self.session, 'good').token_ids, generate(PROMPTS[0], 16)[0])
    until(lambda: used_blocks(self.session) == 0)

  def test_the_context_limits_a_result(self):
    prompt = [5] * 500
    self.session.submit(request('a', prompt, 100))
    whole = finish(self.session, 'a')
    self.assertEqual((whole.tokens, whole.finish_reason), (12, 'length'))
    self.assertEqual(whole.token_ids, generate(prompt, 12)[0])

  def test_the_cache_limits_a_result(self):
    session = self.opened(num_blocks=2)
    session.submit(request('too long', [5] * 32))
    self.assertRegex(
        finish(session, 'too long').error,
        'invalid: the prompt has 32 tokens, .* than 32 .the cache, of num_bl')
    session.submit(request('a', [5] * 31, 100))
    session.submit(request('b', [6], 100))
    for name, prompt, tokens in (('a', [5] * 31, 1), ('b', [6], 31)):
      whole = finish(session, name)
      self.assertEqual(whole.token_ids, generate(prompt, tokens)[0])
      self.assertEqual(whole.finish_reason, 'length')

  def test_more_requests_than_the_cache_holds(self):
    session = self.opened(num_blocks=6)
    prompts = [TOKENIZER(PROMPTS[i % 3])['input_ids'] + [i] for i in range(12)]
    for i, prompt in enumerate(prompts):
      session.submit(request(str(i), prompt, 48))
    for i, prompt in enumerate(prompts):
      whole = finish(session, str(i))
      self.assertEqual((whole.token_ids, whole.text), generate(prompt, 48))

  def test_cancelling_ends_the_work(self):
    self.session.submit(request('a', tokens=450))
    some_of(self.session, 'a', 3)
    self.assertGreater(used_blocks(self.session), 0)
    self.session.cancel('a')
    self.assertFalse(self.session.knows('a'))
    until(lambda: used_blocks(self.session) == 0)
    steps = self.session._manager.current_batch
    self.assertLess(steps, 300)
    time.sleep(0.3)
    self.assertEqual(self.session._manager.current_batch, steps)

  def test_cancelling_what_still_waits_for_the_engine(self):
    session = self.opened(num_blocks=4)
    session.submit(request('runs', [5], 60))
    some_of(session, 'runs', 1)
    for i in range(8):
      session.submit(request(str(i), [6 + i] * 40, 20))
    for i in range(8):
      session.cancel(str(i))
    finish(session, 'runs')
    until(lambda: used_blocks(session) == 0)
    # Steps that prompts of the others took.
    self.assertLess(session._manager.current_batch, 60 + 8)
    self.assertFalse(session._generating)

  def test_a_cancelled_id_can_be_used_again_at_once(self):
    expected = generate(PROMPTS[2], 16)
    for _ in range(20):
      self.session.submit(request('a', PROMPTS[0], 400))
      self.session.cancel('a')
    self.session.submit(request('a', PROMPTS[2], 16))
    whole = finish(self.session, 'a')
    self.assertEqual((whole.token_ids, whole.text), expected)
    until(lambda: used_blocks(self.session) == 0)

  def test_a_cancellation_that_overtakes_its_request(self):
    # The engine looks for cancellations after it looked for requests.
    self.session._manager.cancel_request('early')
    time.sleep(0.3)
    self.session._manager.add_request([5], 'early', 450, streaming=True)
    until(lambda: self.session._manager.current_batch > 0)
    until(lambda: used_blocks(self.session) == 0)
    self.assertLess(self.session._manager.current_batch, 400)

  def test_a_duplicate_id(self):
    self.session.submit(request('a'))
    with self.assertRaisesRegex(DuplicateRequest, "'a' is in flight already"):
      self.session.submit(request('a', PROMPTS[2]))
    self.assertEqual(
        finish(self.session, 'a').token_ids, generate(PROMPTS[0], 16)[0])

  def test_a_slow_consumer_gets_one_delta(self):
    for i in range(4):
      self.session.submit(request(str(i), PROMPTS[i], 24))
    until(lambda: not self.session._generating)
    for i in range(4):
      delta = self.session.poll(str(i))
      self.assertEqual((delta.token_ids, delta.text), generate(PROMPTS[i], 24))
      self.assertEqual(delta.finish_reason, 'length')
      self.assertLess(delta.started, delta.made)

  def test_an_engine_that_dies(self):
    model = tiny_model()
    session = self.opened(model=model)
    for i, prompt in enumerate(PROMPTS):
      session.submit(request(str(i), prompt, 60))
    before = [some_of(session, str(i), 5) for i in range(4)]

    def failing(*args, **kwargs):
      raise RuntimeError('the device is gone')

    model.forward = failing
    for i in range(4):
      before[i] += finish(session, str(i))
      self.assertEqual(
          before[i].error,
          'engine: generation stopped: RuntimeError: the device is gone')
      self.assertTrue(before[i].is_lost)
    self.assertFalse(session.is_alive)
    session.submit(request('late'))
    late = session.poll('late')
    self.assertRegex(late.error, '^engine: generation stopped')
    self.assertTrue(late.is_lost)
    # As whoever opens the next session does.
    for i, prompt in enumerate(PROMPTS):
      self.session.submit(request(str(i), prompt, 60), transcript(before[i]))
    for i, prompt in enumerate(PROMPTS):
      whole = before[i] + finish(self.session, str(i))
      self.assertEqual((whole.token_ids, whole.text), generate(prompt, 60))

  def test_an_engine_whose_thread_ends(self):
    model = tiny_model()
    session = self.opened(model=model)
    session.submit(request('a', tokens=400))
    some_of(session, 'a', 2)

    def leaving(*args, **kwargs):
      raise SystemExit

    model.forward = leaving
    whole = finish(session, 'a')
    self.assertEqual(whole.error, 'engine: generation stopped')
    self.assertTrue(whole.is_lost)
    self.assertFalse(session.is_alive)

  def test_closing_with_requests_in_flight(self):
    self.session.submit(request('a', tokens=400))
    some_of(self.session, 'a', 2)
    engine = self.session._manager._generation_thread
    self.assertTrue(self.session.is_alive)
    self.session.close()
    self.session.close()
    delta = self.session.poll('a')
    self.assertRegex(delta.error, '^engine: the session was closed')
    self.assertTrue(delta.is_lost)
    self.assertFalse(self.session.is_alive)
    self.assertFalse(engine.is_alive())
    self.assertFalse(self.session._dispatcher.is_alive())

  def test_a_session_that_is_not_closed_lets_the_process_end(self):
    program = (
        'from apache_beam.ml.inference.iterative.engines.huggingface import '
        'session_test as t\n'
        's = t.open_session()\n'
        's.submit(t.request("a", tokens=450))\n'
        't.some_of(s, "a", 1)\n'
        'print("done")\n')
    done = subprocess.run([sys.executable, '-c', program],
                          capture_output=True,
                          text=True,
                          timeout=120,
                          check=False)
    self.assertEqual((done.returncode, done.stdout), (0, 'done\n'), done.stderr)

  def test_two_threads_for_any_number_of_requests(self):
    before = threading.active_count()
    for i in range(20):
      self.session.submit(request(str(i), tokens=4))
    self.assertLessEqual(threading.active_count(), before)
    for i in range(20):
      finish(self.session, str(i))

  def test_sampling_is_told_for_each_request(self):
    session = self.opened(do_sample=True)
    # The likeliest token, however hot the neighbour is.
    session.submit(request('greedy', PROMPTS[0], 32, top_k=1))
    session.submit(request('narrow', PROMPTS[0], 32, top_p=1e-6))
    session.submit(request('cold', PROMPTS[0], 32, temperature=1e-4))
    session.submit(request('hot', PROMPTS[0], 32, temperature=100.0))
    session.submit(request('plain', PROMPTS[0], 32))
    expected = generate(PROMPTS[0], 32)[0]
    for name in ('greedy', 'narrow', 'cold'):
      self.assertEqual(finish(session, name).token_ids, expected, name)
    # By chance equal to the likeliest: 1 in 49152 a token.
    hot = finish(session, 'hot').token_ids
    self.assertLess(sum(a == b for a, b in zip(hot, expected)), 5)
    self.assertEqual(finish(session, 'plain').tokens, 32)

  def test_settings_that_cannot_be_heeded_are_named(self):
    model = tiny_model()
    model.generation_config.repetition_penalty = 1.1
    with self.assertLogs(level='WARNING') as logs:
      self.opened(model=model)
    self.assertIn('repetition_penalty, which', '\n'.join(logs.output))

  def test_a_tokenizer_without_a_chat_template(self):
    template, TOKENIZER.chat_template = TOKENIZER.chat_template, None
    self.addCleanup(setattr, TOKENIZER, 'chat_template', template)
    with self.assertRaisesRegex(ValueError, 'has no chat template. Set its'):
      open_session(chat=True)
    self.session.submit(request('a', [{'role': 'user', 'content': 'Hi'}]))
    self.assertRegex(
        self.session.poll('a').error, '^invalid: the tokenizer of .* template')


if __name__ == '__main__':
  unittest.main()
