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

"""Tests of how elements become requests."""

import unittest

from apache_beam.ml.inference.iterative.handler import SupportsSessions
from apache_beam.ml.inference.iterative.inputs import Inputs
from apache_beam.ml.inference.iterative.inputs import request_id_of
from apache_beam.ml.inference.iterative.options import IterativeOptions


class _Handler(SupportsSessions):
  def open_session(self):
    raise NotImplementedError

  def prompt_of(self, example):
    return example.upper()


def _inputs(keyed, length_fn=None):
  return Inputs(_Handler(), keyed, {'max_tokens': 2}, length_fn)


class InputsTest(unittest.TestCase):
  def test_keys_go_around_the_model(self):
    for keyed, element, example in ((False, 'a', 'a'), (True, ('k', 'a'), 'a'),
                                    (None, ('k', 'a'), 'a'), (None, 'a', 'a')):
      inputs = _inputs(keyed)
      self.assertEqual(example, inputs.example_of(element))
      expected = 'out' if element == 'a' else ('k', 'out')
      self.assertEqual(expected, inputs.with_key(element, 'out'))

  def test_an_element_without_its_key_is_refused(self):
    for element in ('a', ('k', 'a', 'more'), 3):
      with self.assertRaisesRegex(TypeError,
                                  r'must be a pair \(key, example\)'):
        _inputs(True).example_of(element)

  def test_a_request_has_the_prompt_the_arguments_and_the_length(self):
    request = _inputs(True,
                      lambda pair: len(pair[1])).request('id', ('k', 'ab'))
    self.assertEqual(
        ('id', 'AB', {
            'max_tokens': 2
        }, 2),
        (request.request_id, request.prompt, request.args, request.length))

  def test_what_makes_no_request_is_named(self):
    with self.assertRaisesRegex(ValueError,
                                '3 makes no prompt: AttributeError'):
      _inputs(False).request('id', 3)
    with self.assertRaisesRegex(ValueError, "length of 'a' cannot be told"):
      _inputs(False, lambda _: 1 // 0).request('id', 'a')

  def test_ids_are_those_of_the_user_or_random(self):
    options = IterativeOptions(request_id_fn=lambda element: element[0])
    self.assertEqual('k', request_id_of(options, ('k', 'a')))
    random = {request_id_of(IterativeOptions(), 'a') for _ in range(9)}
    self.assertEqual(9, len(random))
    for function, message in ((len, 'returned 1 .* must return a str'),
                              (lambda _: 1 // 0, 'raised ZeroDivisionError')):
      with self.assertRaisesRegex(ValueError, 'request_id_fn ' + message):
        request_id_of(IterativeOptions(request_id_fn=function), 'a')


if __name__ == '__main__':
  unittest.main()
