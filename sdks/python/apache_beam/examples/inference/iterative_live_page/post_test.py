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

"""Tests of how a pipeline's results reach the live page."""

import unittest

from apache_beam.examples.inference.iterative_live_page import post
from apache_beam.examples.inference.iterative_live_page.board import ITERATIVE
from apache_beam.examples.inference.iterative_live_page.board import Board
from apache_beam.examples.inference.iterative_live_page.feed import Feed
from apache_beam.examples.inference.iterative_live_page.server import LiveServer
from apache_beam.ml.inference.iterative import Chunk


class PostTest(unittest.TestCase):
  def test_a_page_that_is_not_there_is_named(self):
    with LiveServer(Feed(Board(['a'], {}, 8))) as server:
      do_fn = post.Post(server.port, ITERATIVE, post.start_message)
      self.assertEqual(list(do_fn.process((0, 'a'))), [(0, 'a')])
      with self.assertRaisesRegex(RuntimeError, 'refuses a message.*prompt=1'):
        list(do_fn.process((1, 'b')))
    with self.assertRaisesRegex(RuntimeError,
                                f'{server.port}.*the machine that serves it'):
      list(do_fn.process((0, 'a')))

  def test_a_long_error_fits(self):
    message = post.chunk_message((
        0, Chunk('id', 0, finish_reason='error',
                 error='engine: ' + 'x' * 9999)))
    board = Board(['a'], {}, 8)
    board.apply({'way': ITERATIVE, **message})
    self.assertEqual(
        [lane['finish_reason'] for lane in board.snapshot()['lanes']],
        [None, 'error'])


if __name__ == '__main__':
  unittest.main()
