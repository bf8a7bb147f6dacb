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

# pytype: skip-file

import pickle
import unittest

try:
  from apache_beam.ml.inference.padding import PaddingOptions
except ImportError:
  raise unittest.SkipTest('PyTorch dependencies are not installed')


class PaddingOptionsTest(unittest.TestCase):
  def test_wrong_fields_are_named(self):
    for options, error, message in [
        ({'side': 'both'}, ValueError, "side must be 'right' or 'left'"),
        ({'pad_value': 'x'}, TypeError, 'pad_value must be a number'),
        ({'pad_value': None}, TypeError, 'pad_value must be a number'),
        ({'pad_value': {'a': '1'}}, TypeError, r"pad_value\['a'\] must be a"),
        ({'pad_to_multiple_of': 0}, ValueError, 'pad_to_multiple_of must be'),
        ({'pad_to_multiple_of': 8.0}, ValueError, 'pad_to_multiple_of must be'),
        ({'verify': 1}, TypeError, 'verify must be a bool'),
        ({'mask': ''}, ValueError, 'mask must be the name'),
        ({'mask': 3}, ValueError, 'mask must be the name'),
        ({'sequence_keys': 'ids'}, TypeError, 'sequence_keys must be a tuple'),
        ({'sequence_keys': ()}, ValueError, 'sequence_keys must hold distinct'),
        ({'sequence_keys': ('a', 'a')}, ValueError, 'must hold distinct names'),
        ({'sequence_keys': (1, )}, TypeError, 'sequence_keys must hold names'),
        ({'per_token_outputs': 'logits'}, TypeError, 'per_token_outputs must'),
        ({'per_token_outputs': None}, TypeError, 'per_token_outputs must'),
        ({'per_token_outputs': ()}, ValueError, 'per_token_outputs must hold'),
        ({'mask': 'm', 'pad_value': {'m': 1}}, ValueError, "the mask 'm'"),
        ({'sequence_keys': ('a', ), 'pad_value': {'b': 1}},
         ValueError,
         r"pad_value names \['b'\]"),
    ]:
      with self.subTest(options):
        with self.assertRaisesRegex(error, 'PaddingOptions: .*' + message):
          PaddingOptions(**options)

  def test_later_changes_of_a_mapping_do_not_show(self):
    values = {'a': 1}
    options = PaddingOptions(pad_value=values)
    values['a'] = 2
    self.assertEqual(options.pad_value, {'a': 1})

  def test_lists_of_names_are_taken(self):
    self.assertEqual(
        PaddingOptions(sequence_keys=['a']).sequence_keys, ('a', ))

  def test_options_pickle(self):
    options = PaddingOptions(pad_value={'a': 1}, mask='m', side='left')
    self.assertEqual(pickle.loads(pickle.dumps(options)), options)


if __name__ == '__main__':
  unittest.main()
