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

"""Durable texts on runners that take delays in their own way, by a clock.

One worker that processes one bundle after another, as Flink's does; time passes
where the worker waits, and for each bundle.
"""

import heapq
import itertools
import statistics
import time
import unittest
from unittest import mock

from apache_beam.ml.inference.iterative.durable.do_fn import DurableDoFn
from apache_beam.ml.inference.iterative.durable.runner_delays_test import cuts_delays
from apache_beam.ml.inference.iterative.durable.runner_delays_test import ignores_delays
from apache_beam.ml.inference.iterative.durable.runner_delays_test import takes_delays
from apache_beam.ml.inference.iterative.inputs import Inputs
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.runners import sdf_utils
from apache_beam.testing.inference.clock_session import ClockModelHandler
from apache_beam.testing.inference.clock_session import ClockSession
from apache_beam.testing.inference.clock_session import clock_token_ids
from apache_beam.transforms import window
from apache_beam.utils import windowed_value
from apache_beam.utils.timestamp import Duration

# Of a bundle, and of an element in it.
_BUNDLE_SECS, _ELEMENT_SECS = 0.06, 0.001
_TOKENS = 64


class _Handler(ClockModelHandler):
  def __init__(self, rate, clock):
    super().__init__(_TOKENS, rate)
    self._clock = clock

  def open_session(self):
    return ClockSession(self._tokens, self._rate, self._clock)


class _View:
  """What a DoFn sees of its tracker; notes the delay that it asks for."""
  def __init__(self, tracker):
    self._tracker = tracker
    self.current_restriction = tracker.current_restriction
    self.try_claim = tracker.try_claim
    self.delay = None

  def defer_remainder(self, delay):
    self.delay = delay.micros / 1e6
    self._tracker.defer_remainder(Duration(0))


class _Worker:
  """Processes bundles; an input comes every so often.

  Attributes:
    first: seconds from each input to the commit of its first chunk.
    ids: the token ids that were committed, by input.
    checkpoints: of each input.
    waits: how long each bundle slept in all.
  """
  def __init__(self, takes, every, rate=20.0, count=40):
    self.now = 1000.0
    self._takes = takes
    self._rate = rate
    self._numbers = itertools.count()
    self._inputs = {f'{i}': 1000.0 + i * every for i in range(count)}
    self._queue = [(at, next(self._numbers), name, None)
                   for name, at in self._inputs.items()]
    self.first, self.ids, self.waits = {}, {}, []
    self.checkpoints = dict.fromkeys(self._inputs, 0)

  def run(self):
    do_fn = DurableDoFn(
        Inputs(_Handler(self._rate, lambda: self.now), False, {}),
        IterativeOptions(mode='durable', request_id_fn=str),
        f'{id(self)}',
        'namespace',
        clock=lambda: self.now)

    def sleep(secs):
      self.now += secs
      self.waits[-1] += secs

    with mock.patch.object(time, 'sleep', sleep), mock.patch.object(
        time, 'time', lambda: self.now):
      do_fn.setup()
      while self._queue:
        self._bundle(do_fn)
      do_fn.teardown()
    return self

  def _bundle(self, do_fn):
    self.now = max(self.now, self._queue[0][0])
    self.waits.append(0.0)
    do_fn.start_bundle()
    chunks, residuals = [], []
    # What comes while it is processed is in the next one.
    ready = []
    while self._queue and self._queue[0][0] <= self.now:
      ready.append(heapq.heappop(self._queue))
    for _, _, name, restriction in ready:
      self.now += _ELEMENT_SECS
      if restriction is None:
        restriction = do_fn.initial_restriction(name)
      tracker = sdf_utils.ThreadsafeRestrictionTracker(
          do_fn.create_tracker(restriction))
      view = _View(tracker)
      value = windowed_value.WindowedValue(name, 0, (window.GlobalWindow(), ))
      chunks += [(name, chunk) for chunk in do_fn.process(name, value, view)]
      if view.delay is not None:
        deferred_at = self.now
        residuals.append((
            name,
            tracker.deferred_status()[0],
            lambda delay=view.delay, at=deferred_at: delay - (self.now - at)))
    self.now += _BUNDLE_SECS
    for name, chunk in chunks:
      self.first.setdefault(name, self.now - self._inputs[name])
      self.ids[name] = self.ids.get(name, ()) + chunk.token_ids
    for name, restriction, delay in residuals:
      self.checkpoints[name] += 1
      resumes = self.now + self._takes(max(delay(), 0.0))
      heapq.heappush(
          self._queue, (resumes, next(self._numbers), name, restriction))

  def check_texts(self):
    for name in self._inputs:
      assert self.ids[name] == clock_token_ids(name, 0, _TOKENS), name

  @property
  def median_first(self):
    return statistics.median(self.first.values())

  @property
  def mean_checkpoints(self):
    return statistics.mean(self.checkpoints.values())


class DelaysTest(unittest.TestCase):
  def test_requests_out_of_step_where_delays_are_cut(self):
    for every in (0.05, 0.25, 1.0):
      for rate, first in ((20.0, 0.35), (5.0, 0.5)):
        with self.subTest(every=every, rate=rate):
          worker = _Worker(cuts_delays, every, rate).run()
          worker.check_texts()
          # It was 0.9 and 1.0 to 2.6 s, with a checkpoint for each chunk, 8.5.
          self.assertLessEqual(worker.median_first, first)
          self.assertLessEqual(worker.mean_checkpoints, 2 * 8.5)

  def test_a_bundle_waits_its_usual_time_whatever_it_holds(self):
    for takes in (takes_delays, cuts_delays):
      for every in (0.01, 0.25):
        with self.subTest(takes=takes, every=every):
          worker = _Worker(takes, every).run()
          worker.check_texts()
          # More only as long as no text has begun.
          self.assertLessEqual(max(worker.waits), 0.25 + 1e-9)
          longer = [wait for wait in worker.waits if wait > 0.1 + 1e-9]
          self.assertLessEqual(len(longer), 2)

  def test_checkpoints_are_few_where_delays_are_taken(self):
    for every in (0.0, 0.25):
      worker = _Worker(takes_delays, every).run()
      worker.check_texts()
      self.assertLessEqual(max(worker.checkpoints.values()), _TOKENS / 8 + 2)
      self.assertLessEqual(worker.median_first, 0.3)

  def test_checkpoints_are_few_where_all_delays_are_ignored(self):
    # All inputs are there at the start, as on the FnApiRunner.
    for count in (1, 5, 40):
      worker = _Worker(ignores_delays, 0.0, count=count).run()
      worker.check_texts()
      self.assertLessEqual(max(worker.checkpoints.values()), _TOKENS / 8 + 2)
    for rate in (2.0, 0.5):
      worker = _Worker(ignores_delays, 0.0, rate, count=2).run()
      worker.check_texts()
      # A slow text is polled at least each 5 s, and when the other one is.
      self.assertLessEqual(
          max(worker.checkpoints.values()),
          _TOKENS / 8 + 2 + 2 * _TOKENS / rate / 5)

  def test_a_text_resumes_a_second_late_at_most_where_delays_are_cut(self):
    worker = _Worker(cuts_delays, 0.25)
    ends = {}
    begun = worker._inputs
    bundle = worker._bundle

    def note(do_fn):
      bundle(do_fn)
      for name, ids in worker.ids.items():
        if len(ids) == _TOKENS:
          ends.setdefault(name, worker.now - begun[name])

    with mock.patch.object(worker, '_bundle', note):
      worker.run()
    self.assertLess(max(ends.values()), _TOKENS / 20 + 1.6)


if __name__ == '__main__':
  unittest.main()
