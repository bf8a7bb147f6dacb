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

import dataclasses
import inspect
import re
import unittest
import zlib

from hypothesis import given
from hypothesis import strategies as st

from apache_beam.ml.inference.iterative.durable.restriction import TranscriptRestriction
from apache_beam.ml.inference.iterative.durable.restriction import TranscriptRestrictionCoder
from apache_beam.ml.inference.iterative.durable.restriction import TranscriptRestrictionTracker
from apache_beam.ml.inference.iterative.durable.restriction import new_restriction
from apache_beam.ml.inference.iterative.durable.restriction import pack
from apache_beam.ml.inference.iterative.durable.restriction import pack_ids
from apache_beam.ml.inference.iterative.durable.restriction import remaining_tokens
from apache_beam.ml.inference.iterative.durable.restriction import unpack
from apache_beam.ml.inference.iterative.durable.restriction import unpack_ids
from apache_beam.ml.inference.iterative.session import Transcript
from apache_beam.runners.sdf_utils import ThreadsafeRestrictionTracker
from apache_beam.transforms import core

_IDS = st.lists(st.integers(0, 2**40), max_size=50).map(tuple)
_SECONDS = st.none() | st.floats(0, 2e9)
# Any str of Python, halves of surrogate pairs too, and long ones.
_TEXT = st.text(st.characters(exclude_categories=()), max_size=50)
_RESTRICTIONS = st.builds(
    TranscriptRestriction,
    request_id=_TEXT,
    nonce=st.integers(0, 2**63 - 1),
    claim=st.integers(0, 2**63 - 1),
    index=st.integers(0, 10**6),
    tokens=st.integers(0, 10**6),
    packed=st.builds(
        pack, _TEXT | _TEXT.map(lambda text: 300 * text), _IDS.map(pack_ids)),
    losses=st.integers(0, 20),
    arrived=st.floats(0, 2e9),
    submitted=_SECONDS,
    first=_SECONDS,
    last=_SECONDS,
    error=st.none() | _TEXT,
    is_cancelled=st.booleans(),
    is_finished=st.booleans())
# What happens to a text: None is a checkpoint, a number a split by a runner.
_EVENTS = st.lists(st.sampled_from(['chunk', 'loss', 'last', None, 0.3, 1.0]))


def _english(tokens: int) -> tuple[str, tuple[int, ...]]:
  """So many words and the like, and ids as a vocabulary of 49,152 has them."""
  pieces = re.findall(r'\w+|\W', inspect.getsource(core))[:tokens]
  assert len(pieces) == tokens
  return ''.join(pieces), tuple(
      zlib.crc32(piece.encode()) % 49_152 for piece in pieces)


class CoderTest(unittest.TestCase):
  @given(_RESTRICTIONS)
  def test_round_trip(self, restriction):
    coder = TranscriptRestrictionCoder()
    self.assertEqual(coder.decode(coder.encode(restriction)), restriction)

  @given(_IDS, _IDS)
  def test_packed_ids_can_be_joined(self, some, others):
    packed = pack_ids(some) + pack_ids(others)
    self.assertEqual(unpack_ids(packed), some + others)

  @given(_TEXT | _TEXT.map(lambda text: 300 * text), _IDS)
  def test_packs_and_unpacks(self, text, token_ids):
    packed_ids = pack_ids(token_ids)
    self.assertEqual(unpack(pack(text, packed_ids)), (text, packed_ids))
    restriction = dataclasses.replace(
        new_restriction('a'), packed=pack(text, packed_ids), tokens=7)
    self.assertEqual(restriction.transcript(), Transcript(text, token_ids, 7))

  def test_a_long_text_is_small(self):
    text, token_ids = _english(4000)
    restriction = dataclasses.replace(
        new_restriction('a' * 32),
        packed=pack(text, pack_ids(token_ids)),
        tokens=4000)
    size = len(TranscriptRestrictionCoder().encode(restriction))
    self.assertLess(size, 20_000)

  def test_names_a_version_that_it_does_not_know(self):
    coder = TranscriptRestrictionCoder()
    encoded = coder.encode(new_restriction('a'))
    with self.assertRaisesRegex(ValueError, 'version 200 .*same version'):
      coder.decode(bytes([200]) + encoded[1:])


class TrackerTest(unittest.TestCase):
  @given(_EVENTS)
  def test_each_chunk_has_one_owner(self, events):
    owner = TranscriptRestrictionTracker(new_restriction('a'))
    retired, chunks = [], []
    for event in events:
      before = owner.current_restriction()
      if before.is_finished:
        break
      if event is None:
        retired.append(owner)
        primary, residual = owner.try_split(0)
        self.assertTrue(primary.is_finished)
        self.assertTrue(owner.check_done())
        owner = TranscriptRestrictionTracker(residual)
      elif isinstance(event, float):
        self.assertIsNone(owner.try_split(event))
        self.assertEqual(owner.current_restriction(), before)
      else:
        after = dataclasses.replace(
            before,
            claim=before.claim + 1,
            index=before.index + (event != 'loss'),
            is_finished=event == 'last')
        # Those that were checkpointed never get it.
        self.assertFalse(any(old.try_claim(after) for old in retired))
        self.assertTrue(owner.try_claim(after))
        if event != 'loss':
          chunks.append(before.index)
    self.assertEqual(chunks, list(range(len(chunks))))
    if not owner.current_restriction().is_finished:
      with self.assertRaisesRegex(ValueError, 'without a last'):
        owner.check_done()

  def test_refuses_what_does_not_follow(self):
    restriction = new_restriction('a')
    for change in ({'index': 2}, {'nonce': restriction.nonce ^ 1}):
      tracker = TranscriptRestrictionTracker(restriction)
      with self.assertRaisesRegex(ValueError, 'does not follow'):
        tracker.try_claim(dataclasses.replace(restriction, **change))
    done = dataclasses.replace(restriction, index=1, is_finished=True)
    tracker = TranscriptRestrictionTracker(restriction)
    self.assertTrue(tracker.try_claim(done))
    self.assertIsNone(tracker.try_split(0))
    with self.assertRaisesRegex(ValueError, 'finished'):
      tracker.try_claim(dataclasses.replace(done, index=2))

  def test_beam_comes_back_for_the_rest(self):
    tracker = ThreadsafeRestrictionTracker(
        TranscriptRestrictionTracker(new_restriction('a')))
    after = dataclasses.replace(tracker.current_restriction(), index=1)
    self.assertTrue(tracker.try_claim(after))
    tracker.defer_remainder()
    self.assertEqual(tracker.deferred_status()[0], after)
    self.assertTrue(tracker.check_done())
    self.assertTrue(tracker.is_bounded())

  def test_progress(self):
    restriction = dataclasses.replace(new_restriction('a'), tokens=25)
    progress = TranscriptRestrictionTracker(restriction, 100).current_progress()
    self.assertEqual(progress.completed_work, 25)
    self.assertEqual(progress.remaining_work, 75)
    longer = dataclasses.replace(restriction, tokens=1000)
    self.assertEqual(remaining_tokens(longer, 100), 1)
    done = dataclasses.replace(longer, is_finished=True)
    self.assertEqual(remaining_tokens(done, 100), 0)


if __name__ == '__main__':
  unittest.main()
