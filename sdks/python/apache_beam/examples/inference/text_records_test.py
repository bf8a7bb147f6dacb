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

"""Tests of how examples read texts."""

import gzip
import json
import tempfile
import unittest
from pathlib import Path

from apache_beam.examples.inference import text_records
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.utils.command_line import UsageError


class TextRecordsTest(unittest.TestCase):
  def setUp(self):
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = Path(folder.name)

  def _write(self, name, *lines):
    text = ''.join(f'{line}\n' for line in lines)
    (self.folder / name).write_text(text, encoding='utf-8')
    return str(self.folder / name)

  def _read(self, name, *lines, **kwargs):
    path = self._write(name, *lines)
    return list(text_records.read_records(path, 'text', **kwargs))

  def test_text_files_have_numbers_of_lines_as_ids(self):
    self.assertEqual(
        self._read('a.txt', '\ufeffone', '', ' ', '{"text": 1} ü\r'),
        [('1', 'one'), ('4', '{"text": 1} ü')])

  def test_json_lines_have_ids_of_their_own_or_numbers(self):
    lines = [{'id': 7, 'text': 'a'}, {'text': 'b\nc'}, {'id': 0, 'text': ''}]
    self.assertEqual(
        self._read('a.jsonl', *map(json.dumps, lines)),
        [('7', 'a'), ('2', 'b\nc'), ('0', '')])

  def test_compressed_files(self):
    path = self.folder / 'a.jsonl.gz'
    path.write_bytes(gzip.compress(b'{"text": "x"}\n'))
    self.assertEqual(
        list(text_records.read_records(str(path), 'text')), [('1', 'x')])

  def test_lines_that_hold_no_record_are_named(self):
    for line in ('{"id": 1}', '{"text": 3}', '[1]', '"text"', 'no JSON', '3'):
      with self.subTest(line=line), self.assertRaisesRegex(
          UsageError,
          r'a\.jsonl, line 2: expected a JSON object with a string "text", '
          r'got .*\.$'):
        self._read('a.jsonl', '{"text": "x"}', line)
    with self.assertRaisesRegex(UsageError, 'got x{80}…'):
      self._read('a.jsonl', 'x' * 81)
    path = self.folder / 'latin.txt'
    path.write_bytes('naïve\n'.encode('latin-1'))
    with self.assertRaisesRegex(UsageError, 'line 1: the line is no UTF-8'):
      list(text_records.read_records(str(path), 'text'))

  def test_ids_that_are_needed(self):
    for name, line, message in (
        ('a.jsonl', '{"text": "x"}', 'line 1: the object needs an "id"'),
        ('a.txt', 'x', 'line 1: a text file has no ids; give JSON Lines')):
      with self.assertRaisesRegex(UsageError, message):
        self._read(name, line, needs_id=True)

  def test_a_pipeline_reads_all_files(self):
    self._write('a.txt', 'one', 'two')
    with TestPipeline('FnApiRunner') as p:
      assert_that(
          p | text_records.ReadRecords(f'{self.folder}/*.txt', 'text'),
          equal_to([('1', 'one'), ('2', 'two')]))
    self._write('b.txt', 'one')
    with TestPipeline('FnApiRunner') as p:
      assert_that(
          p | text_records.ReadRecords(f'{self.folder}/*.txt', 'text'),
          equal_to([('a.txt:1', 'one'), ('a.txt:2', 'two'),
                    ('b.txt:1', 'one')]))

  def test_no_file(self):
    with self.assertRaisesRegex(
        UsageError, '--input=/no/file: there is no such file. Give the path'):
      _ = TestPipeline() | text_records.ReadRecords('/no/file', 'text')


if __name__ == '__main__':
  unittest.main()
