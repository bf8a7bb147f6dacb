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

import decimal
import math
import pickle
import unittest

import numpy
from hypothesis import given
from hypothesis import strategies as st

from apache_beam.transforms.batching.user_functions import CheckedFn
from apache_beam.transforms.batching.user_functions import checked
from apache_beam.transforms.batching.validation import one


class CheckedFnTest(unittest.TestCase):
  def _returning(self, value, is_length=True):
    return CheckedFn(lambda _: value, 'length_fn', 'Owner', is_length)

  def _refused(self, value, is_length):
    with self.subTest(value=value, is_length=is_length):
      with self.assertRaisesRegex(
          ValueError, "Owner: length_fn returned .* for the element 'abc'"):
        self._returning(value, is_length)('abc')

  def test_results_that_are_no_number(self):
    for value in (None, 'x', b'3', math.nan, 1 + 1j, [1]):
      self._refused(value, is_length=True)
    for value in (None, 'x', math.nan, 1 + 1j, [1]):
      self._refused(value, is_length=False)

  def test_results_that_are_no_length(self):
    for value in (-1, -0.1 - 1, math.inf, 1 << 41):
      self._refused(value, is_length=True)

  def test_sizes_pass_as_they_are(self):
    for value in (0.5, -1, math.inf, decimal.Decimal(3), numpy.float32(2)):
      self.assertIs(value, self._returning(value, is_length=False)('abc'))

  @given(st.integers(0, 1 << 40))
  def test_lengths_pass(self, length):
    self.assertEqual(length, self._returning(length)('abc'))

  @given(st.floats(0, 1 << 40))
  def test_lengths_are_rounded_up(self, length):
    found = self._returning(length)('abc')
    self.assertIs(int, type(found))
    self.assertTrue(length <= found <= length + 1)

  def test_numbers_of_other_types_become_ints(self):
    for value in (True,
                  numpy.int64(1),
                  numpy.array(1),
                  numpy.array([0.5]),
                  numpy.float32(0.5),
                  decimal.Decimal('0.5')):
      result = self._returning(value)('abc')
      self.assertEqual((int, 1), (type(result), result))

  def test_long_elements_are_cut_in_the_message(self):
    with self.assertRaises(ValueError) as raised:
      self._returning(None)('x' * 10000)
    self.assertLess(len(str(raised.exception)), 400)

  def test_what_the_function_raises_stays_what_it_is(self):
    class Own(Exception):
      def __init__(self, code, text):
        super().__init__(code, text)
        self.code = code

    reused = ValueError('no such word')
    for error in (KeyError('no such token'), Own(3, 'text'), reused):

      def fail(_, error=error):
        raise error

      for is_length in (True, False):
        with self.assertRaises(type(error)) as raised:
          CheckedFn(fail, 'length_fn', 'Owner', is_length)('abc')
        self.assertIs(error, raised.exception)
    self.assertEqual(
        "no such word [Owner: length_fn failed for the element 'abc']",
        str(reused))

  def test_an_element_without_a_representation(self):
    class Strange:
      def __repr__(self):
        raise TypeError

    with self.assertRaisesRegex(ValueError, 'for the element <Strange>'):
      self._returning(None)(Strange())

  def test_survives_pickling(self):
    fn = pickle.loads(pickle.dumps(checked(len, 'length_fn', 'Owner', True)))
    self.assertEqual(3, fn('abc'))

  def test_counting_elements_needs_no_check(self):
    self.assertIs(one, checked(one, 'element_size_fn', 'Owner'))


if __name__ == '__main__':
  unittest.main()
