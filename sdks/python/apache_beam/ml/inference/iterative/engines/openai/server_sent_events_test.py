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

"""Tests for the reader of server-sent events."""

import json
import unittest

from hypothesis import given
from hypothesis import strategies as st

from apache_beam.ml.inference.iterative.engines.openai.server_sent_events import DONE
from apache_beam.ml.inference.iterative.engines.openai.server_sent_events import EventReader
from apache_beam.ml.inference.iterative.engines.openai.server_sent_events import EventTooLarge


def read(*parts, limit=100_000):
  reader = EventReader(limit)
  events = []
  for part in parts:
    events += reader.feed(part)
  return events + reader.end()


class EventReaderTest(unittest.TestCase):
  @given(
      st.lists(
          st.recursive(
              st.none() | st.booleans() | st.integers() | st.text(),
              lambda inner: st.lists(inner)
              | st.dictionaries(st.text(), inner),
              max_leaves=5),
          min_size=1),
      st.sampled_from(['\n', '\r', '\r\n']),
      st.sampled_from([None, 2]),
      st.booleans(),
      st.lists(st.integers(0, 300), max_size=10))
  def test_events_are_complete_however_bytes_are_cut(
      self, values, newline, indent, has_end, cuts):
    stream = ''
    for value in values:
      lines = json.dumps(value, indent=indent).split('\n')
      stream += f': comment{newline}event: x{newline}'
      stream += ''.join(f'data: {line}{newline}' for line in lines) + newline
    data = stream.encode()
    if not has_end:
      data = data.rstrip()
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    parts = [data[a:b] for a, b in zip([0, *ends], ends)]
    marks = [DONE if value in ('[DONE]', 'DONE') else value for value in values]
    self.assertEqual([('x', value) for value in marks], read(*parts))

  def test_what_servers_send_beside_the_standard(self):
    for sent, events in (
        # Half of an event is none, a complete one without its empty line is.
        (b'data: {"half": 1', []),
        (b'data: {"a": 1}', [('', {'a': 1})]),
        (b'data: {"a": 1}\ndata: [DONE]', [('', {'a': 1}), ('', DONE)]),
        (b'\xef\xbb\xbfdata:{}\r\n\r\ndata:[DONE]\r\n\r\n',
         [('', {}), ('', DONE)]),
        # llama.cpp until 2025.
        (b'error: {"code":400}\n\ndata: [DONE]\n\n',
         [('error', {'code': 400}), ('', DONE)]),
        (b'data: {}\n\n{"error": "x"}\n\n', [('', {}), ('', {'error': 'x'})]),
        (b'event: ping\ndata: now\n\n', [('ping', b'now')]),
        (b'event: ping\n\ndata: {}\n\n', [('', {})]),
        (b'data:\n\n: ok\n\nid: 7\nretry: 3\n\n', [('', b'')]),
        # No streams.
        (b'{\n  "error": {"message": "x"}\n}', [('', {'error': {'message': 'x'}})]),
        (b'{"error": "x"}\n\ndata: [DONE]\n\n',
         [('', {'error': 'x'}), ('', DONE)]),
        (b'[{"error": 1}]', [('', [{'error': 1}])]),
        (b'Bad Gateway', [('', b'Bad Gateway')]),
        (b'Error: no model', [('', b'Error: no model')]),
        (b'ok', [('', b'ok')]),
        (b' \n', []),
        (b'', [])):
      for size in (1, 2, 7, 1000):
        with self.subTest(sent=sent, size=size):
          parts = [sent[i:i + size] for i in range(0, len(sent), size)]
          self.assertEqual(events, read(*parts))

  def test_an_event_comes_with_the_line_that_completes_it(self):
    reader = EventReader(100)
    self.assertEqual([], reader.feed(b'data: {"a":'))
    self.assertEqual([], reader.feed(b'1}'))
    self.assertEqual([('', {'a': 1})], reader.feed(b'\n'))

  def test_memory_is_bounded(self):
    for parts in ([b'x' * 101], [b'x' * 60] * 2, [b'data: {' + b'x' * 100],
                  [b'data: 1234567x9\n'] * 20, [b'data: ' + b'[' * 94 + b'\n']):
      with self.assertRaises(EventTooLarge):
        read(*parts, b'\n' * 2, b'data: ' + b'x' * 101, limit=100)

  def test_cost_grows_with_the_size_alone(self):
    lines = b''.join(b'data: %d,\n' % i for i in range(50_000))
    event, = read(b'data: [\n', lines, b'data: 0]\n\n', limit=1 << 20)
    self.assertEqual(50_001, len(event[1]))


if __name__ == '__main__':
  unittest.main()
