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

import gc
import unittest

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference
from apache_beam.ml.inference.iterative.in_bundle import InBundleDoFn
from apache_beam.ml.inference.iterative.in_bundle_test import EagerSession
from apache_beam.ml.inference.iterative.in_bundle_test import InBundleTestCase
from apache_beam.ml.inference.iterative.in_bundle_test import LosingHandler
from apache_beam.ml.inference.iterative.in_bundle_test import in_the_global_window
from apache_beam.ml.inference.iterative.in_bundle_test import metric
from apache_beam.ml.inference.iterative.in_bundle_test import pipeline
from apache_beam.ml.inference.iterative.in_bundle_test import seen
from apache_beam.ml.inference.iterative.in_bundle_test import submitted
from apache_beam.ml.inference.iterative.in_bundle_test import summaries
from apache_beam.ml.inference.iterative.inputs import Inputs
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to


class EagerHandler(LosingHandler):
  def open_session(self):
    return EagerSession(self._name)


class InBundleProcessTest(InBundleTestCase):
  """What the bundles of a process share, and their metrics."""
  def test_requests_in_flight_count_for_the_whole_process(self):
    # Two bundles of a process, in two threads.
    handler = LosingHandler(self.name)
    one, other = (self.do_fn(handler, max_in_flight=3) for _ in range(2))
    one.start_bundle()
    other.start_bundle()
    for text in ('abc', 'de'):
      list(one.process(text, in_the_global_window()))
    list(other.process('fg', in_the_global_window()))
    counts = []
    for output in one.process('hi', in_the_global_window()):
      counts.append(len(one._lease.in_flight))
    self.assertLessEqual(max(counts), 3)
    # The other bundle cannot go on before this one, or the other way around.
    finished = one.finish_bundle()
    list(other.process('jk', in_the_global_window()))
    self.assertEqual(len(one._lease.in_flight), 3)
    list(other.finish_bundle())
    list(finished)
    self.assertEqual(len(one._lease.in_flight), 0)
    for do_fn in (one, other):
      do_fn.teardown()

  def test_what_a_bundle_that_failed_had_in_flight_does_not_count(self):
    handler = LosingHandler(self.name)
    failed, other = (self.do_fn(handler, max_in_flight=2) for _ in range(2))
    failed.start_bundle()
    for text in ('abc', 'de'):
      list(failed.process(text, in_the_global_window()))
    failed.teardown()
    list(other.process('fg', in_the_global_window()))
    self.assertEqual(len(other._lease.in_flight), 1)
    # One whose runner forgets to tear it down.
    gone = self.do_fn(handler, max_in_flight=2)
    list(gone.process('hi', in_the_global_window()))
    self.assertEqual(len(other._lease.in_flight), 2)
    del gone
    gc.collect()
    self.assertEqual(len(other._lease.in_flight), 1)
    other.teardown()

  def test_a_setup_that_fails_holds_nothing(self):
    class Failing(LosingHandler):
      def open_session(self):
        if submitted[self._name]:
          return super().open_session()
        raise RuntimeError('no memory')

    handler = Failing(self.name)
    submitted[self.name] = []
    for _ in range(3):
      do_fn = InBundleDoFn(
          Inputs(handler, False, {}), IterativeOptions(), self.name, 'here')
      with self.assertRaisesRegex(RuntimeError, 'no memory'):
        do_fn.setup()
      do_fn.teardown()
    submitted[self.name].append('now it opens')
    do_fn = self.do_fn(handler, session_idle_secs=0.0)
    session = do_fn._lease.session()
    do_fn.teardown()
    self.assertFalse(session.is_alive)

  def test_a_model_outlives_a_short_idle_time(self):
    for idle_secs, opened in ((30.0, 1), (0.0, 4)):
      seen.pop(self.name, None)
      for text in ('abc', 'de', 'f', 'g'):
        do_fn = self.do_fn(
            LosingHandler(self.name), session_idle_secs=idle_secs)
        list(do_fn.process(text, in_the_global_window()))
        list(do_fn.finish_bundle())
        do_fn.teardown()
      self.assertEqual(seen[self.name].count('opened'), opened)
      self.name += ' without'

  def test_the_time_limit_of_a_text_whose_chunks_are_always_there(self):
    now = [100.0]
    do_fn = self.do_fn(
        EagerHandler(self.name), lambda: now[0], request_timeout_secs=2.0)
    do_fn.start_bundle()
    outputs = list(do_fn.process('a long text', in_the_global_window()))
    for output in do_fn.finish_bundle():
      outputs.append(output)
      # What a fused step downstream takes.
      now[0] += 0.5
    last = outputs[-1].value
    self.assertEqual((last.index, last.error_kind), (6, 'timeout'))
    self.assertIn('stopped a long text', seen[self.name])
    do_fn.teardown()

  def test_counts_requests_and_their_times(self):
    p = pipeline()
    chunks = p | beam.Create(['abcd', 'efgh']) | RunInference(
        LosingHandler(self.name),
        metrics_namespace='here',
        iterative=IterativeOptions(
            chunk_tokens=1, stop_when=lambda progress: 'f' in progress.text))
    assert_that(
        summaries(chunks),
        equal_to([('abcd', 'abcd', 'stop'), ('efgh', 'ef', 'cancelled')]))
    result = p.run()
    counts = {
        name: metric(result, name).result
        for name in ('tokens', 'chunks', 'num_inferences', 'cancelled')
    }
    self.assertEqual(
        counts, {
            'tokens': 6, 'chunks': 6, 'num_inferences': 2, 'cancelled': 1
        })
    self.assertEqual(metric(result, 'ttft_msec').result.count, 2)
    self.assertEqual(metric(result, 'ttft_from_arrival_msec').result.count, 2)
    self.assertEqual(metric(result, 'inter_token_msec').result.count, 4)
    self.assertEqual(metric(result, 'inter_chunk_msec').result.count, 4)


if __name__ == '__main__':
  unittest.main()
