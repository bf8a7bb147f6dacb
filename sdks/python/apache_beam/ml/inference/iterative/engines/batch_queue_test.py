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

"""Tests of which requests a model takes next."""

import unittest

from hypothesis import given
from hypothesis import strategies as st

from apache_beam.ml.inference.iterative.engines.batch_queue import BatchLimits
from apache_beam.ml.inference.iterative.engines.batch_queue import BatchQueue
from apache_beam.ml.inference.iterative.session import Request


class BatchQueueTest(unittest.TestCase):
  def setUp(self):
    self.now = 100.0

  def queue(self, lengths=(), known=True, args=None, **limits):
    queue = BatchQueue(BatchLimits(**limits), lambda: self.now)
    for i, length in enumerate(lengths):
      request = Request(
          str(i),
          length,
          args[i] if args else {},
          length=length if known else None)
      queue.add(queue.entry(request))
    return queue

  def batches(self, queue):
    """Prompts, which are lengths, of each batch."""
    self.now += 1
    batches = []
    while batch := queue.take():
      batches.append([request.prompt for request in batch])
    return batches

  @given(
      st.lists(st.integers(0, 60), max_size=60),
      st.booleans(),
      st.integers(1, 9),
      st.integers(1, 12),
      st.one_of(st.none(), st.integers(1, 100)),
      st.data())
  def test_each_request_is_in_one_batch_within_limits(
      self, lengths, known, least, more, weight, data):
    args = [{'steps': data.draw(st.integers(0, 1))} for _ in lengths]
    queue = self.queue(
        lengths,
        known,
        args,
        min_batch_size=least,
        max_batch_size=least + more,
        max_batch_weight=weight,
        element_size_fn=lambda prompt: prompt)
    seen, taken = [], len(queue)
    while batch := queue.take():
      seen += [request.request_id for request in batch]
      self.assertLessEqual(len(batch), least + more)
      total = sum(request.prompt for request in batch)
      self.assertTrue(weight is None or total <= weight or len(batch) == 1)
      self.assertEqual(len({str(request.args) for request in batch}), 1)
      queue.learn(batch, 0.1)
      taken -= len(batch)
      self.assertEqual(len(queue), taken)
    self.assertEqual(
        sorted(seen, key=int), [str(i) for i in range(len(lengths))])

  def test_in_the_order_of_arrival(self):
    queue = self.queue([5, 1, 9, 1, 5], known=False, max_batch_size=2)
    self.assertEqual(self.batches(queue), [[5, 1], [9, 1], [5]])

  def test_by_length_the_oldest_first(self):
    lengths = [3, 500, 4, 510, 2, 505, 490, 3] * 8
    queue = self.queue(lengths, max_batch_size=8)
    batches = self.batches(queue)
    self.assertEqual(len(batches), 8)
    for batch in batches:
      self.assertLess(max(batch) - min(batch), 100)
    self.assertIn(3, batches[0])
    queue = self.queue([500, 3, 4, 510], max_batch_size=2)
    self.assertEqual(self.batches(queue), [[500, 510], [3, 4]])

  def test_boundaries_part_batches(self):
    queue = self.queue([14, 15, 16, 17], bucket_boundaries=[16])
    self.assertEqual(self.batches(queue), [[14, 15], [16, 17]])

  def test_a_fixed_batch_is_run_as_it_is(self):
    queue = self.queue([7], max_batch_size=8)
    entries = [queue.entry(Request(f'a{n}', n, length=n)) for n in (5, 900)]
    queue.add_batch(entries, fixed=True)
    queue.add_batch([queue.entry(Request('b', 6, length=6))], fixed=False)
    self.assertEqual(self.batches(queue), [[6, 7], [5, 900]])

  def test_batches_that_are_not_fixed_are_joined(self):
    queue = self.queue(max_batch_size=4)
    for start in (0, 3, 6):
      entries = [
          queue.entry(Request(f'{start + i}', start + i)) for i in range(3)
      ]
      queue.add_batch(entries, fixed=False)
    self.assertEqual(queue.wait_secs(), 0.0)
    self.assertEqual(self.batches(queue), [[0, 1, 2, 3], [4, 5, 6, 7], [8]])

  def test_waits_a_moment_for_the_least(self):
    queue = self.queue([1, 1], min_batch_size=3)
    self.assertAlmostEqual(queue.wait_secs(), 0.1)
    self.now += 0.06
    queue.add(queue.entry(Request('x', 1, {'other': 'args'})))
    self.assertAlmostEqual(queue.wait_secs(), 0.04)
    queue.add(queue.entry(Request('y', 1)))
    self.assertEqual(queue.wait_secs(), 0.0)
    queue.remove('y')
    self.now += 0.1
    self.assertEqual(queue.wait_secs(), 0.0)
    self.assertEqual(len(queue.take()), 2)
    self.assertEqual((len(queue.take()), queue.take()), (1, []))
    self.assertEqual(queue.wait_secs(), 0.0)


if __name__ == '__main__':
  unittest.main()
