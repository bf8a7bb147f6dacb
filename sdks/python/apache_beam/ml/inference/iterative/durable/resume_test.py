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

"""Texts that go on in another process, from nothing but their restriction."""

import json
import subprocess
import sys
import time
import unittest

from apache_beam.ml.inference.iterative import registry
from apache_beam.ml.inference.iterative.durable.requests import DurableRequests
from apache_beam.ml.inference.iterative.durable.restriction import TranscriptRestrictionCoder
from apache_beam.ml.inference.iterative.durable.restriction import new_restriction
from apache_beam.ml.inference.iterative.durable.transitions import Transitions
from apache_beam.ml.inference.iterative.inputs import Inputs
from apache_beam.ml.inference.iterative.metrics import IterativeMetrics
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.testing.inference.clock_session import ClockModelHandler
from apache_beam.testing.inference.clock_session import clock_text
from apache_beam.testing.inference.clock_session import clock_token_ids

_CODER = TranscriptRestrictionCoder()
_PROMPT = 'a prompt'
_TOKENS = 40
_RATE = 400.0
# Not __name__: that may be __main__.
_MODULE = 'apache_beam.ml.inference.iterative.durable.resume_test'

_OTHER_PROCESS = '''
import json, sys
from {module} import worker

process = worker()
for line in sys.stdin:
  chunks = process.to_the_end(bytes.fromhex(line))
  print(json.dumps([[c.index, c.text, c.token_ids, c.finish_reason]
                    for _, c in chunks]))
'''


class Worker:
  """A process with a model, and nothing known of any text.

  Args:
    handler: of the model.
    prompt: of each text.
    args: the inference args.
  """
  def __init__(self, handler, prompt, args):
    self._lease = registry.acquire(object(), handler.open_session)
    self._inputs = Inputs(handler, False, args)
    self._prompt = prompt

  def to_the_end(self, encoded: bytes):
    """Yields the encoded restriction before each chunk that is left, and it."""
    transitions = Transitions(
        self._inputs,
        IterativeOptions(mode='durable', chunk_tokens=2),
        self._lease,
        DurableRequests(),
        IterativeMetrics('test'))
    while True:
      restriction = _CODER.decode(encoded)
      transition = transitions.next(restriction, self._prompt)
      if transition is None:
        time.sleep(0.002)
        continue
      transitions.was_claimed(transition)
      yield encoded, transition.chunk
      if transition.after.is_finished:
        break
      encoded = _CODER.encode(transition.after)

  def from_the_start(self):
    """All restrictions and chunks of a text that nothing interrupts."""
    return zip(*self.to_the_end(_CODER.encode(new_restriction('a'))))

  def close(self):
    self._lease.release()


def worker() -> Worker:
  return Worker(ClockModelHandler(_TOKENS, _RATE), _PROMPT, {})


def in_another_process(module: str, restrictions: list[bytes]) -> list[list]:
  """Goes on from restrictions in a new process, one after another.

  Args:
    module: whose function worker makes the Worker.

  Returns:
    For each of them the rows (index, text, token ids, finish reason).
  """
  done = subprocess.run(
      [sys.executable, '-c', _OTHER_PROCESS.format(module=module)],
      input='\n'.join(r.hex() for r in restrictions),
      stdout=subprocess.PIPE,
      text=True,
      check=True)
  return [json.loads(line) for line in done.stdout.splitlines()]


class DurableResumeTest(unittest.TestCase):
  def setUp(self):
    process = worker()
    self.addCleanup(process.close)
    self.restrictions, self.chunks = process.from_the_start()

  def check(self, index, rest):
    """That chunks before an index, and those made elsewhere, are the text."""
    ids = clock_token_ids(_PROMPT, 0, _TOKENS)
    before = self.chunks[:index]
    made = [i for c in before for i in c.token_ids]
    made += [i for _, _, token_ids, _ in rest for i in token_ids]
    self.assertEqual(made, list(ids))
    text = ''.join([c.text for c in before] + [text for _, text, _, _ in rest])
    self.assertEqual(text, clock_text(ids))
    indices = [c.index for c in before] + [i for i, *_ in rest]
    self.assertEqual(indices, list(range(len(indices))))
    self.assertEqual(rest[-1][-1], 'length')

  def test_at_each_index_in_one_process(self):
    self.assertGreaterEqual(len(self.chunks), 10)
    resumed = in_another_process(_MODULE, self.restrictions)
    self.assertEqual(len(resumed), len(self.restrictions))
    for index, rest in enumerate(resumed):
      self.check(index, rest)

  def test_in_processes_of_their_own(self):
    for index in (1, len(self.chunks) // 2, len(self.chunks) - 1):
      rest, = in_another_process(_MODULE, [self.restrictions[index]])
      self.check(index, rest)

  def test_the_check_notices_a_token_that_is_lost_or_doubled(self):
    index = len(self.chunks) // 2
    rest = [[c.index, c.text, c.token_ids, c.finish_reason]
            for c in self.chunks[index:]]
    self.check(index, rest)
    for wrong in (rest[1:], rest[:1] + rest):
      with self.assertRaises(AssertionError):
        self.check(index, wrong)


if __name__ == '__main__':
  unittest.main()
