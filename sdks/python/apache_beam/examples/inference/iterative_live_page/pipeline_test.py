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

"""Tests of the pipeline whose texts grow on a page."""

import contextlib
import io
import os
import re
import tempfile
import unittest

import apache_beam as beam
from apache_beam.examples.inference.iterative_live_page import page
from apache_beam.examples.inference.iterative_live_page import pipeline
from apache_beam.examples.inference.iterative_live_page.board import ITERATIVE
from apache_beam.examples.inference.iterative_live_page.board import ONE_SHOT
from apache_beam.examples.inference.iterative_live_page.board import Board
from apache_beam.examples.inference.iterative_live_page.feed import Feed
from apache_beam.examples.inference.iterative_live_page.server import LiveServer
from apache_beam.ml.inference.iterative import IterativeOptions
from apache_beam.ml.inference.iterative.chunk import FINISH_REASONS
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.inference.clock_session import ClockModelHandler
from apache_beam.testing.inference.clock_session import clock_text
from apache_beam.testing.inference.clock_session import clock_token_ids
from apache_beam.utils.command_line import UsageError

_FLAGS = ['--runner=FnApiRunner', '--experiments=iterative_inference']


class PipelineTest(unittest.TestCase):
  def test_both_ways_reach_the_page_whole(self):
    # The same prompt twice: they are told apart by number.
    prompts = ['a', 'b', 'a']
    whole = [clock_text(clock_token_ids(prompt, 0, 10)) for prompt in prompts]
    for mode in ('in_bundle', 'durable'):
      feed = Feed(Board(prompts, {}, 10))
      with self.subTest(mode), LiveServer(feed) as server:
        with beam.Pipeline(options=PipelineOptions(_FLAGS)) as p:
          pipeline.build(
              p,
              prompts,
              ClockModelHandler(10, rate=100),
              IterativeOptions(mode=mode, chunk_tokens=2),
              server.port)
        lanes = feed.snapshot()['lanes']
        for way in (ONE_SHOT, ITERATIVE):
          self.assertEqual(
              [lane['added'] for lane in lanes if lane['way'] == way], whole)
        for lane in lanes:
          self.assertEqual(lane['finish_reason'], 'length')
          self.assertEqual(lane['tokens'], 10)
          self.assertLessEqual(0, lane['first'])
          self.assertLessEqual(lane['first'], lane['elapsed'])
          if lane['way'] == ONE_SHOT:
            self.assertEqual(lane['pieces'], 1)
          else:
            self.assertGreater(lane['pieces'], 1)

  def test_the_command_says_what_came(self):
    with contextlib.redirect_stdout(io.StringIO()) as said:
      pipeline.run([
          *_FLAGS,
          *('--max_tokens=4', '--rate=100', '--mode=in_bundle'),
          *('--start_at_once', '--exit_when_done')
      ])
    page, one_shot, iterative = said.getvalue().splitlines()
    self.assertRegex(page, r'^The page is at http://127\.0\.0\.1:\d+/$')
    for line, way in ((one_shot, ONE_SHOT), (iterative, ITERATIVE)):
      self.assertRegex(
          line,
          rf'^{way}: first token after [\d.]+ s \(median\), 4 of 4 done after '
          r'[\d.]+ s$')

  def test_nothing_came(self):
    snapshot = Board(['a'], {}, 8).snapshot()
    self.assertEqual(
        list(pipeline.summary(snapshot)),
        ['one_shot: nothing came', 'iterative: nothing came'])

  def test_prompts_come_from_a_file(self):
    with tempfile.TemporaryDirectory() as folder:
      path = os.path.join(folder, 'prompts.txt')
      for text, found in (('a\n\n b \n', ['a', 'b']), ('\n', None),
                          ('x\n' * 65, None)):
        with open(path, 'w', encoding='utf-8') as file:
          file.write(text)
        if found:
          self.assertEqual(pipeline.read_prompts(path), found)
        else:
          with self.assertRaisesRegex(ValueError, re.escape(path)):
            pipeline.read_prompts(path)
    self.assertGreater(len(pipeline.read_prompts(None)), 1)
    with self.assertRaisesRegex(UsageError, '--prompts=/no/file: there is no'):
      pipeline.read_prompts('/no/file')

  def test_models_that_are_not_there_are_named(self):
    with self.assertRaisesRegex(UsageError, '--model=/no/model: there is no'):
      pipeline.run([*_FLAGS, '--model=/no/model'])

  def test_the_page_explains_the_badge_of_each_end(self):
    for reason in FINISH_REASONS:
      self.assertIn(f'\n  {reason}: ', page.SCRIPT)


if __name__ == '__main__':
  unittest.main()
