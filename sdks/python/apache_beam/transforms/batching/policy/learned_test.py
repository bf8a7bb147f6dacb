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

import concurrent.futures
import gc
import unittest

from apache_beam.transforms.batching.policy.learned import _LEARNED
from apache_beam.transforms.batching.policy.learned import learned_of


class LearnedTest(unittest.TestCase):
  def test_one_for_a_model_in_every_thread(self):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
      found = list(pool.map(learned_of, ['model of this test'] * 64))
    self.assertEqual(1, len(set(map(id, found))))
    self.assertIsNot(found[0], learned_of('another model'))

  def test_goes_with_the_last_who_asked(self):
    first, second = learned_of('a model'), learned_of('a model')
    del first
    gc.collect()
    self.assertIn('a model', _LEARNED)
    del second
    gc.collect()
    self.assertNotIn('a model', _LEARNED)


if __name__ == '__main__':
  unittest.main()
