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

import collections
import dataclasses
import inspect
import random
import unittest
from unittest import mock

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

import apache_beam as beam
from apache_beam.ml.inference.iterative.chunk import Chunk
from apache_beam.ml.inference.iterative.chunk import Usage
from apache_beam.ml.inference.iterative.folds import do_fns as fold_fns
from apache_beam.ml.inference.iterative.folds import texts
from apache_beam.transforms import window
from apache_beam.transforms.userstate import BagStateSpec
from apache_beam.transforms.userstate import TimerSpec
from apache_beam.utils.timestamp import Timestamp

PARTS = ('One', '. Two', '! ', 'Three', '. 3.', '5')
TEXT = ''.join(PARTS)


def chunks_of(request_id, parts=PARTS, reason='stop', **kwargs):
  last = len(parts) - 1
  chunks = [
      Chunk(request_id, i, part, (i, 100 + i)) for i, part in enumerate(parts)
  ]
  chunks[last] = Chunk(
      request_id,
      last,
      parts[last], (last, 100 + last),
      finish_reason=reason,
      error='server: 503' if reason == 'error' else None,
      usage=Usage(7, 2 * len(parts)),
      model_id='m',
      example=f'prompt of {request_id}',
      **kwargs)
  return chunks


def shuffled(chunks, seed=1):
  chunks = list(chunks)
  random.Random(seed).shuffle(chunks)
  return chunks


class _Value:
  """State that encodes what it keeps, as a runner does."""
  def __init__(self, spec):
    self._coder = spec.coder
    self._encoded = []
    self.written = 0

  def read(self):
    return self._coder.decode(self._encoded[0]) if self._encoded else None

  def write(self, value):
    self._encoded = [self._coder.encode(value)]
    self.written += len(self._encoded[0])

  def clear(self):
    self._encoded = []

  @property
  def is_empty(self):
    return not self._encoded


class _Bag(_Value):
  def read(self):
    return map(self._coder.decode, self._encoded)

  def add(self, value):
    self._encoded.append(self._coder.encode(value))
    self.written += len(self._encoded[-1])


class _Timer:
  """Keeps the latest time that it was set to."""
  def __init__(self):
    self.time = None

  def set(self, time):
    self.time = time

  def clear(self):
    self.time = None

  @property
  def is_empty(self):
    return self.time is None


class _Runner:
  """Stands in for a runner: a stateful DoFn, the state and timers of each key.
  """
  def __init__(self, fold, **kwargs):
    self._do_fn = fold_fns.stateful('Fold', fold, Chunk, **kwargs)
    self._cells = collections.defaultdict(dict)

  def process(self, element, timestamp=Timestamp(3)):
    [pair] = fold_fns.WithRequestId('Fold').process(element)
    return list(
        self._do_fn.process(
            pair, **self._kwargs(self._do_fn.process, pair[0], timestamp)))

  def fire(self, name, key, timestamp=Timestamp(0)):
    """What a callback gives, whether its timer is set or not."""
    self._cells[key].pop(name[len('on_'):], None)
    callback = getattr(self._do_fn, name)
    return list(callback(**self._kwargs(callback, key, timestamp)))

  def timer(self, name, key):
    return self._cells[key][name].time

  def _kwargs(self, method, key, timestamp):
    known = {
        beam.DoFn.WindowParam: window.GlobalWindow(),
        beam.DoFn.TimestampParam: timestamp,
        beam.DoFn.KeyParam: key,
    }
    kwargs = {}
    for name, param in inspect.signature(method).parameters.items():
      default = param.default
      if isinstance(default, beam.DoFn.StateParam):
        kwargs[name] = self._cell(key, name, default.state_spec)
      elif isinstance(default, beam.DoFn.TimerParam):
        kwargs[name] = self._cell(key, name, default.timer_spec)
      elif default is not param.empty:
        kwargs[name] = next(
            value for kind, value in known.items() if kind == default)
    return kwargs

  def _cell(self, key, name, spec):
    cells = self._cells[key]
    if name not in cells:
      if isinstance(spec, TimerSpec):
        cells[name] = _Timer()
      else:
        kind = _Bag if isinstance(spec, BagStateSpec) else _Value
        cells[name] = kind(spec)
    return cells[name]

  def state_count(self):
    """How many cells and timers are left."""
    return sum(
        not cell.is_empty for cells in self._cells.values()
        for cell in cells.values())

  def written(self, key):
    return sum(getattr(c, 'written', 0) for c in self._cells[key].values())


_WHOLE = fold_fns.WholeFold(lambda whole: [whole])
SENTENCES = fold_fns.TextFold(texts.cut_sentences)
_GROW = fold_fns.TextFold(texts.grow)


class StatefulTest(unittest.TestCase):
  """Any order of several requests, without a pipeline."""
  @settings(deadline=None)
  @given(
      st.lists(
          st.lists(st.text('ab. \n。', max_size=4), min_size=1, max_size=6),
          min_size=1,
          max_size=4),
      st.booleans(),
      st.randoms(use_true_random=False))
  def test_any_order_gives_what_the_right_order_gives(
      self, all_parts, is_keyed, rng):
    chunks = [
        chunk for i, parts in enumerate(all_parts)
        for chunk in chunks_of(f'r{i}', parts)
    ]
    elements = [('k' + c.request_id, c) for c in chunks] if is_keyed else chunks
    shuffled = list(elements)
    rng.shuffle(shuffled)
    for fold in (_WHOLE, SENTENCES, _GROW):
      got, expected = {}, {}
      for order, into in ((shuffled, got), (elements, expected)):
        runner = _Runner(fold)
        for element in order:
          for output in runner.process(element):
            if is_keyed:
              key, output = output
              self.assertEqual(key, 'k' + output.request_id)
            into.setdefault(output.request_id, []).append(output)
        self.assertEqual(runner.state_count(), 0)
      self.assertEqual(got, expected)
      for i, parts in enumerate(all_parts):
        self.assertTrue(got[f'r{i}'][-1].is_last)
        if fold is not SENTENCES:
          self.assertEqual(got[f'r{i}'][-1].text, ''.join(parts))

  @given(st.permutations(range(len(PARTS))))
  def test_what_is_gapless_comes_out_at_once(self, order):
    runner, chunks, came, out = _Runner(_GROW), chunks_of('r'), set(), 0
    for index in order:
      came.add(index)
      out += len(runner.process(chunks[index]))
      self.assertEqual(out, min(set(range(len(PARTS) + 1)) - came))

  def test_state_of_a_text_grows_by_what_comes(self):
    for fold in (_WHOLE, SENTENCES):
      written = []
      for count in (200, 400):
        runner = _Runner(fold)
        for chunk in chunks_of('r', ['Ten chars. '] * count):
          runner.process(chunk)
        written.append(runner.written('r'))
      self.assertLess(written[1], 2.2 * written[0])

  def test_a_chunk_that_comes_twice_is_an_error(self):
    for fold in (_WHOLE, SENTENCES):
      for again in (0, 2):
        runner, chunks = _Runner(fold), chunks_of('r7')
        runner.process(chunks[0])
        runner.process(chunks[2])
        with self.assertRaisesRegex(
            ValueError, f"^Fold: request 'r7': chunk {again} came twice"):
          runner.process(chunks[again])


class GivesUpTest(unittest.TestCase):
  """Requests of which a chunk never arrives, without a pipeline."""
  def setUp(self):
    self.now = 1000.0
    patch = mock.patch.object(fold_fns, '_now', lambda: self.now)
    patch.start()
    self.addCleanup(patch.stop)

  def lose(self, fold, lost, **kwargs):
    """A runner that folded a text but for its lost chunks, and its outputs."""
    runner = _Runner(fold, **kwargs)
    outputs = []
    for chunk in shuffled(chunks_of('r')):
      if chunk.index not in lost:
        outputs += runner.process(chunk)
    return runner, outputs

  @given(
      st.sets(st.sampled_from(range(len(PARTS))), min_size=1),
      st.sampled_from([_WHOLE, SENTENCES, _GROW]),
      st.sampled_from([None, 30.0]),
      st.booleans())
  def test_each_request_ends_once_and_leaves_nothing(
      self, lost, fold, secs, at_window_end):
    self.now = 1000.0
    runner, outputs = self.lose(fold, lost, give_up_secs=secs)
    if len(lost) == len(PARTS):
      # Of this one nobody knows.
      self.assertEqual((runner.state_count(), outputs), (0, []))
      return
    self.assertFalse([o for o in outputs if o.is_last])
    missing = min(lost)
    if at_window_end or secs is None:
      last = runner.fire('on_window_end', 'r')
      why = 'before the end of its window, or of the input'
    else:
      self.now += 31
      last = runner.fire('on_deadline', 'r')
      why = 'in 30 s'
    ends = [output.value for output in last]
    self.assertTrue(ends[-1].is_last)
    self.assertEqual(ends[-1].finish_reason, 'error')
    self.assertEqual(
        ends[-1].error,
        f"lost: chunk {missing} of request 'r' did not arrive {why}")
    outputs += ends
    self.assertEqual(sum(output.is_last for output in outputs), 1)
    if fold is SENTENCES:
      text = ''.join(output.text for output in outputs)
    else:
      text = outputs[-1].text
      self.assertEqual(outputs[-1].index, missing)
    self.assertEqual(text, ''.join(PARTS[:missing]))
    if fold is _WHOLE:
      has_last = len(PARTS) - 1 not in lost
      self.assertEqual(outputs[-1].example, 'prompt of r' if has_last else None)
    self.assertEqual([output.timestamp for output in last],
                     [Timestamp(3)] * len(last))
    self.assertEqual(runner.state_count(), 0)

  def test_it_waits_since_the_newest_chunk(self):
    runner, _ = self.lose(_WHOLE, {2, 4}, give_up_secs=30.0)
    self.assertEqual(float(runner.timer('deadline', 'r')), 1030.0)
    self.now += 20
    runner.process(chunks_of('r')[2])
    # It is not set for each chunk.
    self.assertEqual(float(runner.timer('deadline', 'r')), 1030.0)
    self.now += 10
    self.assertEqual(runner.fire('on_deadline', 'r', Timestamp(7)), [])
    self.assertEqual(float(runner.timer('deadline', 'r')), 1050.0)
    self.now += 20
    (end, ) = runner.fire('on_deadline', 'r')
    self.assertIn('chunk 4', end.value.error)
    # The watermark was held there since the callback set the timer.
    self.assertEqual(float(end.timestamp), 7.0)
    for name in ('on_deadline', 'on_window_end'):
      self.assertEqual(runner.fire(name, 'r'), [])
    # What arrives later is a request of its own, and given up in turn.
    runner.process(chunks_of('r')[4])
    (end, ) = runner.fire('on_window_end', 'r')
    self.assertIn('chunk 0', end.value.error)

  def test_a_timer_that_fires_early_is_set_by_the_next_chunk(self):
    # As Prism fires it when it is cleared, and the FnApiRunner at once. Set by
    # the callback it would fire again and again.
    runner, _ = self.lose(_WHOLE, {2, 4}, give_up_secs=30.0)
    for _ in range(2):
      self.assertEqual(runner.fire('on_deadline', 'r'), [])
      self.assertIsNone(runner.timer('deadline', 'r'))
    self.now += 20
    runner.process(chunks_of('r')[2])
    self.assertEqual(float(runner.timer('deadline', 'r')), 1050.0)
    self.now += 30
    (end, ) = runner.fire('on_deadline', 'r')
    self.assertIn('chunk 4', end.value.error)

  def test_the_clock_of_a_runner_is_ahead(self):
    runner, _ = self.lose(_WHOLE, {2, 4}, give_up_secs=30.0)
    self.now += 29
    self.assertEqual(runner.fire('on_deadline', 'r'), [])
    self.assertEqual(float(runner.timer('deadline', 'r')), 1030.0)
    self.now += 1
    (end, ) = runner.fire('on_deadline', 'r')
    self.assertIn('chunk 2', end.value.error)

  def test_complete_requests_leave_no_timer(self):
    for fold in (_WHOLE, SENTENCES, _GROW):
      runner, _ = self.lose(fold, (), give_up_secs=30.0)
      self.assertEqual(runner.state_count(), 0)
      self.now += 31
      for name in ('on_deadline', 'on_window_end'):
        self.assertEqual(runner.fire(name, 'r'), [])

  def test_no_result_of_what_is_among_the_dead_letters(self):
    *before, last = chunks_of('r', reason='error')
    last = dataclasses.replace(last, dead_lettered=True)
    runner = _Runner(_WHOLE)
    for chunk in shuffled([*before, last]):
      self.assertEqual(runner.process(chunk), [])
    self.assertEqual(runner.state_count(), 0)
    within = fold_fns.FoldWithinBundle('Fold', _WHOLE)
    within.start_bundle()
    for chunk in [*before, last]:
      self.assertEqual(list(within.process(chunk, window.GlobalWindow())), [])
    within.finish_bundle()


if __name__ == '__main__':
  unittest.main()
