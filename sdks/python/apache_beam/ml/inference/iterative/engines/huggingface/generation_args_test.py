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

from apache_beam.ml.inference.iterative.engines.huggingface.generation_args import DEFAULT_MAX_NEW_TOKENS
from apache_beam.ml.inference.iterative.engines.huggingface.generation_args import GenerationArgs


class GenerationArgsTest(unittest.TestCase):
  def test_defaults(self):
    self.assertEqual(
        GenerationArgs.of(None, do_sample=False),
        GenerationArgs(max_new_tokens=DEFAULT_MAX_NEW_TOKENS))

  def test_all_values(self):
    args = GenerationArgs.of({
        'max_new_tokens': 0,
        'do_sample': True,
        'temperature': 2,
        'top_p': 1.0,
        'top_k': 1,
        'stop': 'end',
        'ignore_eos': True
    },
                             do_sample=True)
    self.assertEqual(
        args, GenerationArgs(0, 2, 1.0, 1, stop=('end', ), ignore_eos=True))
    self.assertEqual(GenerationArgs(stop=['a', 'b']).stop, ('a', 'b'))

  def test_wrong_types(self):
    for name, value in (
        ('max_new_tokens', 1.0),
        ('max_new_tokens', True),
        ('top_k', '1'),
        ('temperature', '1'),
        ('top_p', None.__class__),
        ('stop', [1]),
        ('stop', b'end'),
        ('ignore_eos', 1)):
      with self.assertRaisesRegex(TypeError, f'inference_args: {name}='):
        GenerationArgs.of({name: value}, do_sample=True)

  def test_out_of_range(self):
    for name, value in (
        ('max_new_tokens', -1),
        ('top_k', 0),
        ('temperature', 0),
        ('temperature', float('nan')),
        ('temperature', float('inf')),
        ('top_p', 0.0),
        ('top_p', 1.1),
        ('stop', ['a', ''])):
      with self.assertRaisesRegex(ValueError, f'inference_args: {name}='):
        GenerationArgs.of({name: value}, do_sample=True)

  def test_unknown_and_unsupported(self):
    for name, message in (
        ('max_tokens', 'not known. There are max_new_tokens, temperature'),
        ('repetition_penalty', 'not supported, because'),
        ('seed', 'not supported, because')):
      with self.assertRaisesRegex(ValueError, f'{name} is {message}'):
        GenerationArgs.of({name: 1}, do_sample=True)

  def test_sampling_needs_a_handler_that_samples(self):
    for name in ('temperature', 'top_p', 'top_k'):
      with self.assertRaisesRegex(ValueError, f'{name} has no effect'):
        GenerationArgs.of({name: 1}, do_sample=False)
    with self.assertRaisesRegex(ValueError, 'handler do_sample=True instead'):
      GenerationArgs.of({'do_sample': True}, do_sample=False)


if __name__ == '__main__':
  unittest.main()
