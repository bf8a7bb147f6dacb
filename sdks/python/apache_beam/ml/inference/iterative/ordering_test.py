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

import random
import unittest

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from apache_beam.ml.inference.iterative.chunk import Chunk
from apache_beam.ml.inference.iterative.ordering import Arrivals
from apache_beam.ml.inference.iterative.ordering import join
from apache_beam.ml.inference.iterative.ordering import split_at


def _chunks(count, **kwargs):
  return [
      Chunk('r', i, finish_reason='stop' if i == count - 1 else None, **kwargs)
      for i in range(count)
  ]


class ArrivalsTest(unittest.TestCase):
  @given(st.permutations(range(30)), st.integers(1, 30))
  def test_counts_what_is_gapless_in_any_order(self, order, count):
    chunks, seen, state = _chunks(count), set(), (0, )
    for index in (i for i in order if i < count):
      arrivals = Arrivals(state)
      arrivals.add(chunks[index])
      seen.add(index)
      state = arrivals.state
      missing = min(set(range(count + 1)) - seen)
      self.assertEqual(arrivals.next, missing)
      self.assertEqual(arrivals.are_complete, len(seen) == count)
      runs = sum(i - 1 not in seen for i in seen)
      self.assertEqual(len(state), 1 + 2 * runs)

  @given(st.permutations(range(8)), st.data())
  def test_a_chunk_that_comes_twice_is_an_error(self, order, data):
    chunks, arrivals = _chunks(8), Arrivals()
    came = order[:data.draw(st.integers(1, 8))]
    for index in came:
      arrivals.add(chunks[index])
    again = data.draw(st.sampled_from(came))
    with self.assertRaisesRegex(ValueError, f"'r'.*{again} came twice"):
      arrivals.add(chunks[again])

  def test_the_last_one_has_none_behind_it(self):
    last = Chunk('r', 1, finish_reason='stop')
    for first, then in ((last, Chunk('r', 2)), (Chunk('r', 2), last),
                        (last, Chunk('r', 0, finish_reason='stop'))):
      arrivals = Arrivals()
      arrivals.add(first)
      with self.assertRaisesRegex(ValueError, "'r'.*request_id_fn"):
        arrivals.add(then)


class JoinTest(unittest.TestCase):
  @given(st.lists(st.text(max_size=3), min_size=1), st.randoms())
  def test_joins_texts_and_tokens_in_order(self, texts, rng):
    chunks = [
        Chunk(
            'r',
            i,
            text,
            tuple(map(ord, text)),
            finish_reason='length' if i == len(texts) - 1 else None,
            example='e' if i == len(texts) - 1 else None)
        for i, text in enumerate(texts)
    ]
    rng.shuffle(chunks)
    text = ''.join(texts)
    self.assertEqual(
        join(chunks),
        Chunk(
            'r',
            len(texts) - 1,
            text,
            tuple(map(ord, text)),
            finish_reason='length',
            example='e'))

  def test_joins_values_along_the_first_axis(self):
    chunks = _chunks(4)
    for i, rows in ((0, 2), (3, 1)):
      chunks[i] = Chunk(
          'r',
          i,
          values=np.full((rows, 2), i),
          finish_reason=chunks[i].finish_reason)
    np.testing.assert_array_equal(join(chunks).values, [[0, 0], [0, 0], [3, 3]])

  def test_scalars_become_an_array(self):
    self.assertEqual(
        join(_chunks(3, values=np.float32(1.5))).values.tolist(), [1.5] * 3)
    self.assertEqual(
        join(_chunks(1, values=np.array(1.5))).values.tolist(), [1.5])

  def test_no_values(self):
    self.assertIsNone(join(_chunks(2)).values)

  def test_splits_and_sorts_those_below(self):
    chunks = _chunks(9)
    random.Random(1).shuffle(chunks)
    below, others = split_at(chunks, 5)
    self.assertEqual([c.index for c in below], list(range(5)))
    self.assertEqual({c.index for c in others}, set(range(5, 9)))


if __name__ == '__main__':
  unittest.main()
