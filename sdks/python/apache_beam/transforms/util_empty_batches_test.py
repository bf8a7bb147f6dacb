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
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.transforms import util
from apache_beam.transforms import window


class NoEmptyBatchesTest(unittest.TestCase):
  def _check(self, into_window):
    with TestPipeline(runner='FnApiRunner') as p:
      batches = (
          p
          | beam.Create(['x' * 20, 'y', 'z' * 30])
          | beam.Map(lambda text: window.TimestampedValue(text, 1))
          | into_window
          | util.BatchElements(10, 10, element_size_fn=len)
          | beam.Map(len))
      assert_that(batches, equal_to([1, 1, 1]))

  def test_element_over_the_target_in_the_global_window(self):
    self._check(beam.WindowInto(window.GlobalWindows()))

  def test_element_over_the_target_in_fixed_windows(self):
    self._check(beam.WindowInto(window.FixedWindows(3)))

  @given(st.lists(st.integers(0, 9)), st.integers(1, 6))
  def test_each_element_in_one_batch_that_is_not_empty(self, sizes, target):
    estimator = util._BatchSizeEstimator(target, target)
    do_fn = util._GlobalWindowsBatchingDoFn(estimator, lambda size: size)
    do_fn.start_bundle()
    batches = [b for size in sizes for b in do_fn.process(size)]
    batches = [b.value for b in (*batches, *do_fn.finish_bundle())]
    self.assertEqual(sizes, [size for batch in batches for size in batch])
    self.assertTrue(all(batches))
    self.assertTrue(all(len(b) == 1 or sum(b) <= target for b in batches))


if __name__ == '__main__':
  unittest.main()
