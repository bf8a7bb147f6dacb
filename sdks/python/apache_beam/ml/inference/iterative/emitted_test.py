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

"""Tests of going on from what an earlier job emitted."""

import unittest

from hypothesis import given
from hypothesis import strategies as st

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference
from apache_beam.ml.inference.iterative.chunk import Chunk
from apache_beam.ml.inference.iterative.emitted import Emitted
from apache_beam.ml.inference.iterative.folds.transforms import FinalsOnly
from apache_beam.ml.inference.iterative.folds.transforms import FoldToPredictionResult
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.ml.inference.iterative.session import Transcript
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.inference.clock_session import ClockModelHandler
from apache_beam.testing.inference.clock_session import clock_text
from apache_beam.testing.inference.clock_session import clock_token_ids
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to

_TOKENS = 12


def chunks_of(prompt, sizes):
  """All chunks of a text of the clock, so many tokens each."""
  chunks, at = [], 0
  for index, size in enumerate(sizes):
    ids = clock_token_ids(prompt, at, at + size)
    chunks.append(Chunk(prompt, index, clock_text(ids), ids))
    at += size
  return chunks


class EmittedTest(unittest.TestCase):
  @given(
      st.lists(st.integers(1, 3), max_size=6).flatmap(
          lambda sizes: st.tuples(
              st.just(sizes), st.permutations(range(len(sizes))), st.sets(
                  st.integers(0, 5)))))
  def test_goes_as_far_as_there_is_no_gap(self, drawn):
    sizes, order, lost = drawn
    chunks = chunks_of('prompt', sizes)
    first_lost = min((i for i in lost if i < len(sizes)), default=len(sizes))
    kept = [chunks[i] for i in order if i not in lost]
    # Chunks may be kept twice.
    emitted = Emitted.of(kept + kept[:2])
    whole = clock_token_ids('prompt', 0, sum(sizes[:first_lost]))
    self.assertEqual(emitted.chunks, first_lost)
    self.assertEqual(
        emitted.transcript, Transcript(clock_text(whole), whole, len(whole)))
    self.assertFalse(emitted.is_finished)

  def test_chunks_that_differ_are_refused(self):
    with self.assertRaisesRegex(ValueError, "'a': there are two chunks 0"):
      Emitted.of([Chunk('a', 0, 'x'), Chunk('a', 0, 'y')])

  def test_knows_the_end(self):
    chunks = [Chunk('a', 0, 'x'), Chunk('a', 1, 'y', finish_reason='stop')]
    self.assertTrue(Emitted.of(chunks).is_finished)
    self.assertFalse(Emitted.of(chunks[1:]).is_finished)


class GoesOnTest(unittest.TestCase):
  def run_with(self, emitted_fn, mode, prompts):
    p = TestPipeline(
        'FnApiRunner',
        options=PipelineOptions(['--experiments=iterative_inference']))
    chunks = p | beam.Create(prompts) | RunInference(
        ClockModelHandler(_TOKENS, rate=1000),
        iterative=IterativeOptions(
            mode=mode, request_id_fn=str, emitted_fn=emitted_fn))
    return p, chunks

  def test_a_text_goes_on_at_every_chunk(self):
    sizes = [1, 3, 3, 3]
    for mode in ('in_bundle', 'durable'):
      kept = {f'{mode} {n}': n for n in range(len(sizes) + 1)}

      def emitted_of(prompt, kept=kept):
        return Emitted.of(chunks_of(prompt, sizes)[:kept[prompt]])

      with self.subTest(mode):
        p, chunks = self.run_with(emitted_of, mode, list(kept))
        expected = []
        for prompt, n in kept.items():
          ids = clock_token_ids(prompt, sum(sizes[:n]), _TOKENS)
          expected += [(prompt, token_id) for token_id in ids]
        ids = chunks | beam.FlatMap(
            lambda c: [(c.request_id, token_id) for token_id in c.token_ids])
        assert_that(ids, equal_to(expected), label='tokens')
        first = (
            chunks
            | beam.Map(lambda c: (c.request_id, c.index))
            | beam.CombinePerKey(min))
        assert_that(first, equal_to(list(kept.items())), label='indices')
        usage = chunks | beam.Filter(lambda c: c.is_last) | beam.Map(
            lambda c: c.usage.completion_tokens)
        assert_that(usage, equal_to([_TOKENS] * len(kept)), label='usage')
        p.run().wait_until_finish()

  def test_folds_take_the_chunks_of_both_jobs(self):
    kept = chunks_of('kept', [1, 3])

    def emitted_of(prompt):
      return Emitted.of(kept) if prompt == 'kept' else None

    for mode in ('in_bundle', 'durable'):
      with self.subTest(mode):
        p, chunks = self.run_with(emitted_of, mode, ['kept', 'new'])
        results = (
            (chunks, p | 'Kept' >> beam.Create(kept))
            | beam.Flatten() | FoldToPredictionResult()
            | beam.Map(lambda result: (result.example, result.inference.text)))
        expected = [(prompt, clock_text(clock_token_ids(prompt, 0, _TOKENS)))
                    for prompt in ('kept', 'new')]
        assert_that(results, equal_to(expected))
        p.run().wait_until_finish()

  def test_what_the_function_does_wrong_fails_its_input(self):
    def emitted_of(prompt):
      return {
          'none': None,
          'number': 3,
          'finished': Emitted(chunks=1, is_finished=True),
      }[prompt]

    for mode in ('in_bundle', 'durable'):
      with self.subTest(mode):
        p, chunks = self.run_with(
            emitted_of, mode, ['none', 'number', 'finished', 'raises'])
        ends = chunks | FinalsOnly() | beam.Map(
            lambda c: (c.example, (c.error or c.finish_reason)[:30]))
        assert_that(
            ends,
            equal_to([
                ('none', 'length'),
                ('number', 'invalid: emitted_fn returned 3'),
                ('finished', 'invalid: emitted_fn says that '),
                ('raises', 'invalid: emitted_fn raised Key'),
            ]))
        p.run().wait_until_finish()

  def test_needs_ids_that_last(self):
    with self.assertRaisesRegex(ValueError, 'needs request_id_fn'):
      IterativeOptions(emitted_fn=lambda _: None)


if __name__ == '__main__':
  unittest.main()
