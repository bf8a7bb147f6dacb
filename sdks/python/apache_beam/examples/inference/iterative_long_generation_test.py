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

"""Tests of the example of long texts."""

import json
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from apache_beam.examples.inference import iterative_long_generation as example
from apache_beam.ml.inference.iterative import Transcript
from apache_beam.testing.inference.clock_session import ClockModelHandler
from apache_beam.testing.inference.clock_session import clock_text
from apache_beam.testing.inference.clock_session import clock_token_ids
from apache_beam.utils.command_line import UsageError


def row(key, index, text, token_ids, finish_reason=None, error=None):
  return {
      'id': key,
      'index': index,
      'text': text,
      'token_ids': token_ids,
      'finish_reason': finish_reason,
      'error': error,
  }


class LongGenerationTest(unittest.TestCase):
  def setUp(self):
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = Path(folder.name)

  def write(self, name, *rows, end='\n'):
    text = '\n'.join(map(json.dumps, rows)) + end
    (self.folder / name).write_text(text, encoding='utf-8')

  def test_reads_what_several_workers_kept(self):
    self.write('1.jsonl', row('a', 1, ' b', [2]), row('b', 0, 'x', [7]))
    self.write('2.jsonl', row('a', 0, 'a', [1]), row('a', 1, ' b', [2]))
    kept = example.read_kept(str(self.folder))
    self.assertEqual(kept['a'].transcript, Transcript('a b', (1, 2), 2))
    self.assertEqual((kept['a'].chunks, kept['b'].chunks), (2, 1))

  def test_a_restart_goes_on_from_the_longest_whole_start(self):
    """Chunk 2 was lost with the first job; the second cuts the text elsewhere.
    """
    prompts, texts = self.folder / 'prompts.jsonl', self.folder / 'texts'
    prompts.write_text('{"id": "a", "prompt": "p"}\n', encoding='utf-8')
    ids = clock_token_ids('p', 0, 20)
    sizes, rows = (1, 5, 3, 4), []
    for index, size in enumerate(sizes):
      start = sum(sizes[:index])
      part = ids[start:start + size]
      rows.append(row('a', index, clock_text(part), part))
    for lost in range(len(sizes)):
      with self.subTest(lost=lost):
        keep = self.folder / f'keep{lost}'
        keep.mkdir()
        first = [r for r in rows if r['index'] != lost]
        self.write(f'keep{lost}/1.jsonl', *first, rows[0] if lost else first[0])
        with mock.patch.object(example,
                               'make_model_handler', lambda args:
                               (ClockModelHandler(20, 500), {})):
          example.run([
              f'--input={prompts}',
              f'--output={texts}',
              f'--keep={keep}',
              '--handler=openai',
              '--url=http://none',
              '--model=none',
              '--runner=FnApiRunner',
              '--experiments=iterative_inference'
          ])
        self.assertEqual(
            json.loads(texts.read_text()),
            {
                'id': 'a',
                'prompt': 'p',
                'text': clock_text(ids),
                'is_finished': True
            })
        example.drop_beyond_gaps(str(keep))
        again = example.read_kept(str(keep))['a']
        self.assertEqual(again.transcript.token_ids, ids)

  def test_what_stops_while_it_drops_chunks_loses_none(self):
    self.write(
        '1.jsonl',
        row('a', 0, 'a', [1]),
        row('a', 1, 'b', [2]),
        row('a', 3, 'd', [4]),
        row('b', 1, 'x', [7]))
    with mock.patch.object(Path, 'unlink', side_effect=KeyboardInterrupt):
      with self.assertRaises(KeyboardInterrupt):
        example.drop_beyond_gaps(str(self.folder))
    self.assertEqual(example.read_kept(str(self.folder))['a'].chunks, 2)
    example.drop_beyond_gaps(str(self.folder))
    (path, ) = self.folder.iterdir()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    self.assertEqual([(r['id'], r['index']) for r in rows], [('a', 0),
                                                             ('a', 1)])

  def test_leaves_out_half_a_line(self):
    self.write('1.jsonl', row('a', 0, 'a', [1]), row('a', 1, 'b', [2]), end='')
    self.assertEqual(example.read_kept(str(self.folder))['a'].chunks, 1)

  def test_goes_on_with_a_text_that_failed(self):
    self.write(
        '1.jsonl',
        row('a', 0, 'a', [1]),
        row('a', 1, '', [], 'error', 'engine: it died'))
    kept = example.read_kept(str(self.folder))['a']
    self.assertEqual((kept.chunks, kept.is_finished), (1, False))

  def test_prompts_need_ids_of_their_own(self):
    path = self.folder / 'prompts.jsonl'
    for lines, message in (
        ('{"prompt": "a"}\n', 'line 1: the object needs an "id"'),
        (
            '{"id": 1, "prompt": "a"}\n{"id": 1, "prompt": "b"}\n',
            'two prompts have the "id" 1')):
      path.write_text(lines, encoding='utf-8')
      with self.assertRaisesRegex(UsageError, message):
        example.read_prompts(str(path))

  def test_writes_texts_and_whether_they_are_whole(self):
    self.write('1.jsonl', row('a', 0, 'done', [1], 'stop'))
    out = self.folder / 'texts'
    example.write_texts(
        str(out), [('a', 'p'), ('b', 'q')], example.read_kept(str(self.folder)))
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    self.assertEqual([(r['id'], r['text'], r['is_finished']) for r in rows],
                     [('a', 'done', True), ('b', '', False)])


if __name__ == '__main__':
  unittest.main()
