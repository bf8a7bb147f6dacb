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

"""Tests of sessions made of a generator function."""

import time
import unittest

import numpy as np

from apache_beam.ml.inference.iterative.engines.batch_queue import BatchLimits
from apache_beam.ml.inference.iterative.engines.generator import GeneratorModelHandler
from apache_beam.ml.inference.iterative.engines.generator import GeneratorSession
from apache_beam.ml.inference.iterative.session import Delta
from apache_beam.ml.inference.iterative.session import Request


def letters(batch, model, args):
  """Each example's letters, a letter of each at a time."""
  for step in range(max(map(len, batch))):
    for position, text in enumerate(batch):
      if step < len(text):
        yield position, text[step]


def to_the_end(session, *request_ids):
  ends = {}
  for request_id in request_ids:
    whole = Delta()
    while whole.finish_reason is None:
      delta = session.poll(request_id, timeout=30)
      assert delta is not None, 'nothing was made in 30 s'
      whole += delta
    ends[request_id] = whole
  return ends


class GeneratorSessionTest(unittest.TestCase):
  def session(self, generate, **limits):
    session = GeneratorSession('model', generate, BatchLimits(**limits))
    self.addCleanup(session.close)
    return session

  def run_batch(self, generate, *prompts, args=None):
    session = self.session(generate)
    for prompt in prompts:
      session.submit(Request(prompt, prompt, args or {}))
    return to_the_end(session, *prompts)

  def test_a_batch_is_what_was_submitted_before_somebody_asked(self):
    batches = []

    def generate(batch, model, args):
      batches.append(batch)
      yield from letters(batch, model, args)

    ends = self.run_batch(generate, 'abc', 'd', 'ef')
    self.assertEqual({
        k: end.text
        for k, end in ends.items()
    }, {k: k
        for k in ends})
    self.assertEqual({end.finish_reason for end in ends.values()}, {'stop'})
    self.assertEqual(batches, [['abc', 'd', 'ef']])

  def test_arrays_are_put_behind_each_other(self):
    def generate(batch, model, args):
      for step in range(3):
        yield 0, np.full((1, 2), step)

    end = self.run_batch(generate, 'a')['a']
    np.testing.assert_array_equal(end.values, [[0, 0], [1, 1], [2, 2]])
    self.assertEqual(end.tokens, 3)

  def test_what_comes_behind_a_finish_reason_is_dropped(self):
    def generate(batch, model, args):
      yield 0, Delta('done', tokens=1, finish_reason='length')
      yield 0, 'more'
      yield 1, 'b'

    ends = self.run_batch(generate, 'a', 'b')
    self.assertEqual((ends['a'].text, ends['a'].finish_reason),
                     ('done', 'length'))
    self.assertEqual((ends['b'].text, ends['b'].finish_reason), ('b', 'stop'))

  def test_what_it_raises_fails_those_that_are_not_done(self):
    def generate(batch, model, args):
      yield 0, Delta('done', finish_reason='stop')
      yield 1, 'half'
      raise ValueError('no more memory')

    ends = self.run_batch(generate, 'a', 'b', 'c')
    self.assertIsNone(ends['a'].error)
    for key, text in (('b', 'half'), ('c', '')):
      self.assertEqual(ends[key].text, text)
      self.assertRegex(
          ends[key].error, r"engine: .*ValueError\('no more memory")

  def test_a_position_that_is_not_there_is_an_error(self):
    ends = self.run_batch(lambda *_: iter([(7, 'x')]), 'a')
    self.assertRegex(ends['a'].error, 'position 7 for a batch of 1')

  def test_it_goes_on_after_an_error(self):
    def generate(batch, model, args):
      if batch == ['bad']:
        raise ValueError
      return letters(batch, model, args)

    session = self.session(generate)
    session.submit(Request('bad', 'bad'))
    self.assertIsNotNone(to_the_end(session, 'bad')['bad'].error)
    session.submit(Request('good', 'good'))
    self.assertEqual(to_the_end(session, 'good')['good'].text, 'good')

  def test_it_goes_on_after_a_panic(self):
    # As those of Rust's libraries; SystemExit is one too.
    class Panic(BaseException):
      pass

    def generate(batch, model, args):
      if batch == ['bad']:
        raise Panic('index out of bounds')
      return letters(batch, model, args)

    session = self.session(generate)
    session.submit(Request('bad', 'bad'))
    self.assertRegex(to_the_end(session, 'bad')['bad'].error, 'out of bounds')
    session.submit(Request('good', 'good'))
    self.assertEqual(to_the_end(session, 'good')['good'].text, 'good')

  def test_it_is_closed_when_nobody_waits_any_more(self):
    states = []

    def generate(batch, model, args):
      try:
        while True:
          yield 0, 'x'
      finally:
        states.append('closed')

    session = self.session(generate)
    session.submit(Request('a', 'a'))
    self.assertIsNotNone(session.poll('a', timeout=30))
    session.cancel('a')
    session.submit(Request('b', 'b'))
    self.assertIsNotNone(session.poll('b', timeout=30))
    self.assertEqual(states, ['closed'])
    session.cancel('b')

  def test_requests_of_other_args_are_batches_of_their_own(self):
    seen = []

    def generate(batch, model, args):
      seen.append((batch, dict(args)))
      return letters(batch, model, args)

    session = self.session(generate)
    for key, steps in (('a', 1), ('b', 2), ('c', 1)):
      session.submit(Request(key, key, {'steps': steps}))
    to_the_end(session, *'abc')
    self.assertEqual(seen, [(['a', 'c'], {'steps': 1}), (['b'], {'steps': 2})])

  def test_no_batch_is_larger_than_its_limits(self):
    sizes = []

    def generate(batch, model, args):
      sizes.append(len(batch))
      return letters(batch, model, args)

    session = self.session(generate, max_batch_size=8)
    names = [f'text {i}' for i in range(20)]
    for name in names[:11]:
      session.submit(Request(name, name))
    requests = [Request(name, name) for name in names[11:]]
    session.submit_batch(requests, fixed=False)
    ends = to_the_end(session, *names)
    self.assertEqual({
        k: end.text
        for k, end in ends.items()
    }, {name: name
        for name in names})
    self.assertEqual(sizes, [8, 8, 4])

  def test_a_fixed_batch_is_run_as_it_is(self):
    batches = []

    def generate(batch, model, args):
      batches.append(batch)
      return letters(batch, model, args)

    session = self.session(generate, max_batch_size=8)
    for names in ('ab', 'cd'):
      session.submit_batch([Request(name, name) for name in names], fixed=True)
    to_the_end(session, *'abcd')
    self.assertEqual(batches, [['a', 'b'], ['c', 'd']])

  def test_a_size_that_cannot_be_told_fails_its_request_alone(self):
    session = self.session(
        letters, max_batch_weight=9, element_size_fn=lambda p: {'a': 1}[p])
    for name in 'ab':
      session.submit(Request(name, name))
    ends = to_the_end(session, *'ab')
    self.assertIsNone(ends['a'].error)
    self.assertRegex(ends['b'].error, "did not take the request: KeyError")

  def test_what_it_must_not_yield(self):
    ragged = [np.ones((1, 2)), np.ones((1, 3))]
    for items, what in (
        ([None], 'item 0 .* is None'),
        ([(0, 'x'), 'word'], "item 1 .* is 'word'"),
        ([(0, 'x', 'y')], r"item 0 .* is \(0, 'x', 'y'\)"),
        ([(0, None)], 'item 0 .*, for position 0, is None'),
        ([(0, 'x'), (0, {'a': 1})], "item 1 .*, for position 0, is {'a': 1}"),
        ([(0, [[1], [2, 3]])], r'item 0 .* is \[\[1\], \[2, 3\]\]'),
        ([('0', 'x')], "item 0 .* has the position '0' for a batch of 1"),
        ([(True, 'x')], 'has the position True for a batch of 1'),
        ([(0.0, 'x')], 'has the position 0.0 for a batch of 1'),
        ([(-1, 'x')], 'has the position -1 for a batch of 1'),
        ([(0, part) for part in ragged],
         r'item 1 .*, for position 0, is an array of the shape \(1, 3\), which '
         r'cannot be joined .* of the shape \(n, 2'),
        ([(0, Delta(values=np.array([None])))], 'item 0 .*, for position 0'),
        ([(0, Delta(text=3))], 'its text is no str'),
        ([(0, Delta(finish_reason='done'))], 'its finish_reason is none of'),
        ([(0, Delta(token_ids=None))], 'item 0 .*, for position 0'),
        ([(0, Delta(token_ids=['1']))], 'item 0 .*, for position 0'),
        ([(0, Delta(tokens=None))], 'item 0 .*, for position 0'),
        ([(0, Delta(error=ValueError('x')))], 'its error is no str'),
        (None, 'the generator function returned None')):
      for count in (1, 3):
        made = iter(items) if items is not None else None
        prompts = [str(i) for i in range(count)]
        ends = self.run_batch(lambda *_, made=made: made, *prompts)
        for end in ends.values():
          self.assertRegex(
              end.error,
              f'^engine: GeneratorModelHandler: .*{what}'.replace(
                  'batch of 1', f'batch of {count}'))
          self.assertRegex(
              end.error,
              rf'Yield pairs of a position in the batch, from 0 to {count - 1}'
              '.*a str, an array of numbers, or a session.Delta')

  def test_what_it_may_yield(self):
    for piece, values in ((3, [3]), (np.float32(2), [2.0]), ([1, 2], [1, 2]),
                          (np.ones((2, 1)), [[1], [1]]),
                          (Delta(values=[4], tokens=1), [4])):
      end = self.run_batch(lambda *_, piece=piece: [(np.int64(0), piece)], 'a')
      self.assertIsNone(end['a'].error)
      np.testing.assert_array_equal(end['a'].values, values)
    delta = Delta('ab', np.array([1, 2]), tokens=np.int64(2))
    end = self.run_batch(lambda *_: [(0, delta)], 'a')['a']
    self.assertEqual((end.token_ids, end.tokens), ((1, 2), 2))
    self.assertEqual({type(token) for token in end.token_ids}, {int})
    end = self.run_batch(lambda *_: [(0, Delta(finish_reason='error'))], 'a')
    self.assertRegex(end['a'].error, 'gave no reason')

  def test_closing_waits_for_a_step(self):
    steps = []

    def generate(batch, model, args):
      while True:
        steps.append('begun')
        time.sleep(0.05)
        steps.append('done')
        yield 0, 'x'

    session = self.session(generate)
    session.submit(Request('a', 'a'))
    self.assertIsNotNone(session.poll('a', timeout=30))
    session.close()
    made = len(steps)
    self.assertEqual(steps[-1], 'done')
    time.sleep(0.1)
    self.assertEqual(len(steps), made)


class GeneratorModelHandlerTest(unittest.TestCase):
  def test_runs_batches_to_the_end_too(self):
    handler = GeneratorModelHandler(lambda: 'model', letters, model_id='spells')
    session = handler.load_model()
    self.addCleanup(session.close)
    results = list(handler.run_inference(['abc', 'd'], session))
    self.assertEqual([r.inference.text for r in results], ['abc', 'd'])
    self.assertEqual([r.example for r in results], ['abc', 'd'])
    self.assertEqual({r.model_id for r in results}, {'spells'})

  def test_an_error_of_a_batch_that_runs_to_the_end_is_raised(self):
    handler = GeneratorModelHandler(lambda: None, lambda *_: 1 / 0)
    session = handler.load_model()
    self.addCleanup(session.close)
    with self.assertRaisesRegex(RuntimeError, 'ZeroDivisionError'):
      list(handler.run_inference(['a'], session))

  def test_cannot_be_shared_by_processes(self):
    for kwargs in ({'large_model': True}, {'model_copies': 2}):
      with self.assertRaisesRegex(ValueError, 'belongs to one process'):
        GeneratorModelHandler(lambda: None, letters, **kwargs)


if __name__ == '__main__':
  unittest.main()
