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

"""Tests of the conformance suite: what holds passes, what is broken is seen."""

import contextlib
import dataclasses
import functools
import io
import json
import unittest
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

import apache_beam as beam
from apache_beam.testing.inference_conformance import __main__ as conformance
from apache_beam.testing.inference_conformance import observations
from apache_beam.testing.inference_conformance.cases import BUCKETING
from apache_beam.testing.inference_conformance.cases import CASES
from apache_beam.testing.inference_conformance.cases import PROMPTS
from apache_beam.testing.inference_conformance.cases import Case
from apache_beam.testing.inference_conformance.cases import whole_text

_FLAGS = ('--runner=FnApiRunner', )


def _pairs(indices, p):
  return p | beam.Create([([*indices], 0.0)])


def _case(indices, expected=(1, 2, 3)):
  return Case(
      'each once',
      BUCKETING,
      functools.partial(_pairs, indices),
      functools.partial(observations.of_elements, indices=expected))


def _fail(element):
  raise ValueError('a step fails')


def _broken(p):
  return p | beam.Create([1]) | beam.Map(_fail)


def _nothing(p):
  return p | beam.Create([1]) | beam.Filter(lambda _: False)


class CasesTest(unittest.TestCase):
  def test_all_hold_on_the_fn_api_runner(self):
    states = {}
    for name, case in CASES.items():
      states[name], why = conformance.run_case(case, _FLAGS, 60)
      expected = (
          conformance.NOT_APPLICABLE
          if case.needs_streaming else conformance.HOLDS)
      self.assertEqual(expected, states[name], (name, why))
    self.assertEqual(4, [*states.values()].count(conformance.NOT_APPLICABLE))

  def test_what_is_broken_is_seen(self):
    for case, why in (
        (_case([1, 2, 3]), None),
        (_case([1, 3]), 'lost: 1'),
        (_case([1, 2, 2, 3, 3]), 'duplicated: 2'),
        (dataclasses.replace(_case([1]), build=_broken), 'a step fails'),
        (dataclasses.replace(_case([1]), build=_nothing), 'nothing reached'),
        (dataclasses.replace(_case([1, 2, 3]), metrics=('padded_size', )),
         'did not arrive: padded_size')):
      state, found = conformance.run_case(case, _FLAGS, 60)
      self.assertEqual(conformance.BROKEN if why else conformance.HOLDS, state)
      self.assertIn(why or '', found)

  def test_timers_may_be_late(self):
    case = dataclasses.replace(
        _case([1]),
        judge=functools.partial(
            observations.of_elements, indices=[1], most_secs=3.5))
    for timer_secs, late in ((2.5, 1), (2.0, 1), (9.0, 0)):
      judge = conformance.with_timer_secs(case, timer_secs).judge
      self.assertEqual(late, judge([([1], 4.0)])['bad_waits'])

  def test_without_metrics_nothing_is_known(self):
    state, why = conformance.verdict(None)
    self.assertEqual(conformance.BROKEN, state)
    self.assertIn('no metrics arrived', why)


class ObservationsTest(unittest.TestCase):
  @given(st.lists(st.integers(0, 9)), st.lists(st.integers(0, 9)))
  def test_lost_and_duplicated(self, got, expected):
    counts = observations.of_elements([(got, 0.0)], indices=expected)
    self.assertEqual(
        sorted(got) == sorted(expected),
        not counts['bad_lost'] and not counts['bad_duplicated'])
    self.assertEqual(
        len(got) - len(expected), counts['bad_duplicated'] - counts['bad_lost'])

  def test_batches(self):
    def count(*batches):
      found = observations.of_batches(
          batches,
          indices=range(4),
          max_count=2,
          max_padded_size=10,
          window_secs=2)
      return {name for name, n in found.items() if n and 'bad' in name}

    good = ([(0, 3), (1, 4)], 0), ([(2, 50)], 2), ([(3, 1)], 2)
    self.assertEqual(set(), count(*good))
    self.assertEqual({'bad_lost'}, count(*good[1:]))
    self.assertEqual({'bad_duplicated'}, count(*good, good[0]))
    self.assertEqual({'bad_mixed_windows'},
                     count(([(0, 3)], 0), ([(1, 4), (2, 4)], 0), good[2]))
    self.assertEqual({'bad_limits'}, count(([(0, 3), (1, 6)], 0), *good[1:]))

  def test_chunks(self):
    texts = {name: whole_text(name) for name in PROMPTS[:2]}
    good = [(name, i, i == 1, part, None, float(i))
            for name, text in texts.items()
            for i, part in enumerate((text[:9], text[9:]))]
    bad = ('bad', 0, True, '', 'invalid: it is bad', 0.0)

    def count(chunks, **kwargs):
      found = observations.of_chunks(chunks, texts=texts, **kwargs)
      return {name for name, n in found.items() if n and 'bad' in name}

    self.assertEqual(set(), count(good))
    self.assertEqual(set(), count([*good, bad], failed='invalid'))
    self.assertEqual({'bad_failures'}, count([*good, bad]))
    self.assertEqual({'bad_failures'}, count(good, failed='invalid'))
    self.assertEqual({'bad_texts'}, count(good[1:]))
    self.assertEqual({'bad_lost', 'bad_texts'}, count(good[2:]))
    self.assertEqual({'bad_duplicated', 'bad_texts'}, count([*good, good[0]]))
    self.assertEqual(set(), count(good, first_before_last=True))
    late = [(*chunk[:-1], chunk[-1] + 5 * (chunk[0] == PROMPTS[1]))
            for chunk in good]
    self.assertEqual({'bad_order'}, count(late, first_before_last=True))


class MainTest(unittest.TestCase):
  def _main(self, *args):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
      code = conformance.main([*args, *_FLAGS])
    return code, out.getvalue(), err.getvalue()

  def test_a_table_and_its_json(self):
    names = '--cases=memory,batch-waits'
    code, out, _ = self._main(names)
    self.assertEqual(0, code)
    self.assertRegex(out, r'\| memory \| .* \| holds \|')
    self.assertRegex(
        out, r'\| batch-waits \| .* \| not applicable \| needs --s')
    code, out, _ = self._main(names, '--format=json')
    self.assertEqual(['holds', 'not applicable'],
                     [row['state'] for row in json.loads(out)])

  def test_a_case_that_does_not_end_is_broken(self):
    with mock.patch.object(conformance, '_GRACE_SECS', 0):
      code, out, _ = self._main('--cases=memory', '--deadline_secs=0.5')
    self.assertEqual(1, code)
    self.assertIn('no end after 0.5 s', out)

  def test_an_unknown_option_is_in_the_table(self):
    row = conformance.run_apart('memory', ['--runner=NoSuchRunner'], 60)
    self.assertEqual(conformance.BROKEN, row['state'])
    self.assertIn('NoSuchRunner', row['figure'])

  def test_unknown_cases(self):
    code, _, err = self._main('--cases=memory,nothing')
    self.assertEqual(2, code)
    self.assertIn('--cases has no nothing. There are: batch-in-bundle', err)


if __name__ == '__main__':
  unittest.main()
