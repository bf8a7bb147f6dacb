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

import unittest

from hypothesis import given
from hypothesis import strategies as st

import apache_beam as beam
from apache_beam.ml.inference import base
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.batching.opt_in import _edit_distance
from apache_beam.transforms.batching.opt_in import is_enabled
from apache_beam.transforms.batching.options import BatchingOptions

_FLAG = '--experiments=smart_bucketing'


def _unpicklable():
  held = (n for n in range(3))  # A generator cannot be pickled.
  return lambda element: len(element) + next(held)


def _expand(transform, *flags):
  pipeline = beam.Pipeline(options=PipelineOptions(list(flags)))
  _ = pipeline | beam.Create(['a']) | transform


class _KnowsLengths(base.ModelHandler[str, str, None]):
  def get_length_fn(self, inference_args):
    return len


class FlagTest(unittest.TestCase):
  def _is_enabled(self, *experiments):
    options = PipelineOptions([f'--experiments={e}' for e in experiments])
    return is_enabled(options, None, 'Owner')

  def test_values(self):
    self.assertFalse(self._is_enabled())
    self.assertTrue(self._is_enabled('other', 'smart_bucketing'))
    for value, expected in (('true', True), ('True', True), ('false', False)):
      self.assertIs(expected, self._is_enabled(f'smart_bucketing={value}'))
    with self.assertRaisesRegex(ValueError, 'Owner: .*=maybe must be'):
      self._is_enabled('smart_bucketing=maybe')

  def test_slips_are_named(self):
    for slip in ('smart_buckting',
                 'smart-bucketing',
                 'Smart_Bucketing',
                 'smart_bucketin=true',
                 'iterativ_inference'):
      with self.assertLogs(level='WARNING') as logs:
        self.assertFalse(self._is_enabled(slip))
      ours = 'iterative_inference' if 'infer' in slip else 'smart_bucketing'
      self.assertIn(
          f'Owner: --experiments={slip.partition("=")[0]} is not known and has '
          f'no effect. Did you mean --experiments={ours}?',
          str(logs.output))

  def test_experiments_of_others_are_left_alone(self):
    with self.assertNoLogs(level='WARNING'):
      self._is_enabled('use_runner_v2', 'smart', 'iterative_inference')


class StateTest(unittest.TestCase):
  """One line says whether a transform batches by length, and why."""
  def _check(self, transform, expected, *flags):
    with self.assertLogs('apache_beam.transforms.batching', 'INFO') as logs:
      _expand(transform, *(flags or (_FLAG, )))
    lines = [line for line in logs.output if 'batching by length is' in line]
    self.assertEqual(1, len(lines), lines)
    self.assertIn(expected, lines[0])

  def test_of_batch_elements(self):
    self._check(
        'Group' >> beam.BatchElements(length_fn=len),
        'Group: batching by length is on, by length_fn, within each bundle')
    self._check(beam.BatchElements(), 'is off: no length_fn is given')

  def test_of_run_inference(self):
    for handler, expected in (
        (base.ModelHandler(batch_length_fn=len), 'on, by its batch_length_fn'),
        (_KnowsLengths(), 'on, by the lengths that _KnowsLengths knows'),
        (base.ModelHandler(),
         'off: ModelHandler does not know the lengths of its examples'),
        (base.ModelHandler(batch_length_fn=len).with_no_batching(),
         'off: the model handler skips batching')):
      self._check(
          base.RunInference(handler),
          f'RunInference: batching by length is {expected}')

  def test_without_the_flag_nothing_is_said(self):
    with self.assertNoLogs('apache_beam.transforms.batching', 'INFO'):
      _expand(beam.BatchElements(length_fn=len))
      _expand(base.RunInference(_KnowsLengths()))

  def test_what_cannot_be_pickled_works_as_without_the_flag(self):
    self._check(
        beam.BatchElements(length_fn=_unpicklable()),
        'BatchElements: batching by length is off: length_fn=')


class RefusedTest(unittest.TestCase):
  def _refused(self, transform, message):
    with self.assertRaisesRegex(TypeError, message):
      _expand(transform, _FLAG)

  def test_options_that_would_have_no_effect(self):
    self._refused(
        'Group' >> beam.BatchElements(
            length_fn=_unpicklable(), options=BatchingOptions()),
        'Group: length_fn=.* cannot be pickled')
    self._refused(
        base.RunInference(
            base.ModelHandler(batch_length_fn=_unpicklable()),
            batching_options=BatchingOptions()),
        'RunInference: length_fn=.* cannot be pickled')

  def test_element_size_fn_that_cannot_be_pickled(self):
    self._refused(
        beam.BatchElements(length_fn=len, element_size_fn=_unpicklable()),
        'BatchElements: element_size_fn=.* cannot be pickled')

  def test_options_of_another_type(self):
    for options in ({'max_padded_size': 8}, True, BatchingOptions):
      with self.assertRaisesRegex(
          TypeError, 'BatchElements: options=.* must be a BatchingOptions'):
        beam.BatchElements(length_fn=len, options=options)
      with self.assertRaisesRegex(
          TypeError, 'RunInference: batching_options=.* must be a Batching'):
        base.RunInference(_KnowsLengths(), batching_options=options)


class EditDistanceTest(unittest.TestCase):
  def test_letters_that_differ(self):
    for word, distance in (('smart_bucketing', 0), ('smart_buckting', 1),
                           ('smart_bucketting', 1), ('smrt_bucketin', 2),
                           ('smart_bukceting', 2), ('', 15)):
      self.assertEqual(distance, _edit_distance(word, 'smart_bucketing'), word)

  @given(st.text(max_size=8), st.text(max_size=8))
  def test_is_a_distance(self, one_word, other):
    distance = _edit_distance(one_word, other)
    self.assertEqual(distance, _edit_distance(other, one_word))
    self.assertEqual(one_word == other, distance == 0)
    self.assertLessEqual(distance, max(len(one_word), len(other)))


if __name__ == '__main__':
  unittest.main()
