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

import unittest

import numpy as np

from apache_beam.ml.inference.iterative.generator import GeneratorModelHandler
from apache_beam.ml.inference.iterative.generator import GeneratorSession
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
  def session(self, generate):
    session = GeneratorSession('model', generate)
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
