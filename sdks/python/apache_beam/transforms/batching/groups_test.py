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

from apache_beam import coders
from apache_beam.transforms import window
from apache_beam.transforms.batching.groups import InGroups
from apache_beam.transforms.batching.groups import group_type
from apache_beam.transforms.batching.in_bundle import LengthBatchingDoFn
from apache_beam.utils.windowed_value import WindowedValue

_WINDOWS = [window.IntervalWindow(i, i + 1) for i in range(3)]


class InGroupsTest(unittest.TestCase):
  def _groups(self, elements, shards=None, now=lambda: 100.0):
    """Those of a bundle of (element, window, timestamp) tuples."""
    within_bundle = LengthBatchingDoFn(len, [(None, 32)], clock=now)
    do_fn = InGroups(within_bundle, 16, shards)
    do_fn.setup()
    do_fn.start_bundle()
    sent = []
    for element, number, at in elements:
      windowed_value = WindowedValue(element, at, (_WINDOWS[number], ))
      sent += do_fn.process(element, windowed_value)
    return [*sent, *do_fn.finish_bundle()]

  @given(
      st.lists(
          st.tuples(st.text('abc'), st.integers(0, 2), st.integers(0, 99))),
      st.sampled_from([None, 1, 3]))
  def test_each_element_once_in_its_window(self, elements, shards):
    found = []
    for sent in self._groups(elements, shards):
      group = sent.value if shards is None else sent.value[1]
      self.assertTrue(1 <= len(group) <= 64)
      times = [timestamp for _, _, _, timestamp, _, _ in group]
      self.assertEqual(sent.timestamp.micros, min(times))
      at, = sent.windows
      for text, length, arrived, timestamp, nbytes, values in group:
        self.assertEqual((length, arrived, values), (len(text), 10**8, [1]))
        self.assertGreaterEqual(nbytes, len(text))
        found.append((text, _WINDOWS.index(at), timestamp // 10**6))
    self.assertEqual(sorted(found), sorted(elements))

  def test_groups_are_spread_evenly(self):
    groups = self._groups([('a', 0, 0)] * 192, 3)
    self.assertEqual([64, 64, 64], [len(c.value[1]) for c in groups])
    self.assertEqual({0, 1, 2}, {c.value[0] for c in groups})

  def test_bundles_have_keys_in_turn(self):
    do_fn = InGroups(LengthBatchingDoFn(len, [(None, 32)]), 16, shards=3)
    do_fn.setup()
    shards = []
    for _ in range(6):
      do_fn.start_bundle()
      for number in (0, 1):
        value = WindowedValue('a', 0, (_WINDOWS[number], ))
        self.assertEqual([], list(do_fn.process('a', value)))
      one, another = do_fn.finish_bundle()
      self.assertEqual(one.value[0], another.value[0])
      shards.append(one.value[0])
    self.assertEqual({0, 1, 2}, set(shards[:3]))
    self.assertEqual(shards[:3], shards[3:])

  def test_large_elements_do_not_wait_for_others(self):
    sizes = [len(c.value) for c in self._groups([('x' * 2**19, 0, 0)] * 4)]
    self.assertEqual([2, 2], sizes)

  def test_no_group_takes_longer_than_a_part_of_the_wait(self):
    # Each element comes 0.6 s after that before it.
    times = iter(range(1000))
    groups = self._groups([('a', 0, 0)] * 6, now=lambda: 0.6 * next(times))
    self.assertEqual([3, 3], [len(c.value) for c in groups])

  def test_elements_are_encoded_by_their_own_coder(self):
    coder = coders.registry.get_coder(group_type(str))
    self.assertIn('StrUtf8Coder', str(coder))
    self.assertNotIn('FastPrimitives', str(coder))
    for sent in self._groups([('a', 0, 1), ('bc', 0, 2)]):
      self.assertEqual(sent.value, coder.decode(coder.encode(sent.value)))


if __name__ == '__main__':
  unittest.main()
