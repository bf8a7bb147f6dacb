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

import apache_beam as beam
from apache_beam.testing.inference_conformance import __main__ as conformance
from apache_beam.testing.inference_conformance import observations
from apache_beam.testing.inference_conformance.bucketing_cases import BUCKETING
from apache_beam.testing.inference_conformance.case import Case

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


class RunCaseTest(unittest.TestCase):
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
