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

"""Tests of how changes reach those who watch."""

import threading
import unittest

from hypothesis import given
from hypothesis import strategies as st

from apache_beam.examples.inference.iterative_live_page.board import Board
from apache_beam.examples.inference.iterative_live_page.board_test import piece
from apache_beam.examples.inference.iterative_live_page.feed import Feed
from apache_beam.examples.inference.iterative_live_page.feed import TooManyWatchers


class Page:
  """Does what the page's script does with events."""
  def __init__(self, watcher):
    self.watcher = watcher
    self.texts, self.status = {}, None

  def take(self):
    for name, data in self.watcher.take(0):
      if name == 'snapshot':
        self.texts = {}
      self.status = data.get('status', self.status)
      for lane in data.get('lanes', [data] if name == 'lane' else []):
        key = lane['prompt'], lane['way']
        self.texts[key] = self.texts.get(key, '') + lane['added']


def texts_of(board):
  return {(lane['prompt'], lane['way']): lane['added']
          for lane in board.snapshot()['lanes']}


class FeedTest(unittest.TestCase):
  @given(
      st.lists(
          st.sampled_from(('publish', 'early', 'late', 'status')), max_size=60),
      st.integers(1, 5))
  def test_whoever_takes_knows_the_state_of_then(self, steps, most_events):
    feed = Feed(Board(['a'], {}, 8), most_events=most_events)
    pages = {'early': Page(feed.watch()), 'late': None}
    for index, step in enumerate(steps):
      if step == 'publish':
        published = steps[:index].count('publish')
        feed.publish(piece(published, f'{published} '))
      elif step == 'status':
        feed.set_status(f'status {index}')
      else:
        pages[step] = pages[step] or Page(feed.watch())
        pages[step].take()
        self.assertEqual(pages[step].texts, texts_of(feed.board))
        self.assertEqual(pages[step].status, feed.snapshot()['status'])
      for page in filter(None, pages.values()):
        self.assertLessEqual(len(page.watcher._events), most_events)

  def test_what_changes_nothing_is_not_told(self):
    feed = Feed(Board(['a'], {}, 8))
    with feed.watch() as watcher:
      watcher.take(0)
      feed.publish(piece(0))
      feed.publish(piece(0))
      self.assertEqual([name for name, _ in watcher.take(0)], ['lane'])
      self.assertEqual(watcher.take(0), [])

  def test_watchers_are_bounded_and_leave(self):
    feed = Feed(Board(['a'], {}, 8), most_watchers=2)
    with feed.watch():
      with feed.watch():
        with self.assertRaisesRegex(TooManyWatchers, '2 pages'):
          feed.watch()
      feed.watch()

  def test_a_change_wakes_who_waits(self):
    feed = Feed(Board(['a'], {}, 8))
    watcher, taken = feed.watch(), []
    watcher.take(0)
    thread = threading.Thread(target=lambda: taken.extend(watcher.take(60)))
    thread.start()
    feed.publish(piece(0))
    thread.join(30)
    self.assertEqual([name for name, _ in taken], ['lane'])

  def test_close_waits_until_what_was_told_has_been_taken(self):
    feed = Feed(Board(['a'], {}, 8))
    page = Page(feed.watch())

    def watch():
      with page.watcher:
        while not feed.is_closed:
          page.take()
        page.take()

    thread = threading.Thread(target=watch)
    thread.start()
    feed.set_status('done')
    feed.close(timeout=30)
    self.assertEqual(page.status, 'done')
    thread.join(30)

  def test_wait_for_watcher(self):
    feed = Feed(Board(['a'], {}, 8))
    self.assertFalse(feed.wait_for_watcher(0))
    with feed.watch():
      pass
    self.assertTrue(feed.wait_for_watcher(0))


if __name__ == '__main__':
  unittest.main()
