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

"""Reads the texts of examples, each with the number of its line.

A file is text, one record a line, or JSON Lines if its name ends in .jsonl (or
.jsonl.gz and the like): then a line is an object with the text in a field, and
optionally an "id". Empty lines hold nothing.
"""

import json
import os
from collections.abc import Iterator
from typing import NamedTuple

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.utils.command_line import UsageError


class Record(NamedTuple):
  """A text and its id: the one that it has, or else the number of its line."""
  id: str
  text: str


def input_help(field: str) -> str:
  """What --help says of an input whose texts are in that field."""
  return (
      'Path or pattern of text files, one text per line, or of JSON Lines '
      f'files (.jsonl) of objects with a string "{field}" and, optionally, an '
      '"id"; without it the number of the line is the id.')


def find_files(pattern: str, option: str = '--input') -> list[str]:
  """The files that a pattern names.

  Raises:
    UsageError: if there is none.
  """
  try:
    found = FileSystems.match([pattern])[0].metadata_list
  except ValueError as e:
    raise UsageError(f'{option}={pattern}: {e}') from e
  if not found:
    raise UsageError(
        f'{option}={pattern}: there is no such file. Give the path of a text '
        'file or of a JSON Lines file (.jsonl).')
  return [file.path for file in found]


def read_records(
    path: str,
    field: str,
    needs_id: bool = False,
    prefix: str = '') -> Iterator[Record]:
  """Reads the records of a file.

  Args:
    path: a file that one of Beam's file systems reads, compressed or not.
    field: of the text, in JSON Lines.
    needs_id: whether the number of a line is no id.
    prefix: of the ids that are numbers of lines.

  Raises:
    UsageError: if a line holds no such record; with its number.
  """
  is_json = '.jsonl' in os.path.basename(path)
  with FileSystems.open(path) as file:
    for number, line in enumerate(iter(file.readline, b''), 1):
      try:
        text, identity = _decode(line), None
        if not text.strip():
          continue
        if is_json:
          text, identity = _from_json(text, field)
        elif needs_id:
          raise ValueError('a text file has no ids; give JSON Lines (.jsonl)')
        if identity is None and needs_id:
          raise ValueError('the object needs an "id"')
      except ValueError as e:
        raise UsageError(f'{path}, line {number}: {e}.') from e
      if identity is None:
        identity = f'{prefix}{number}'
      yield Record(str(identity), text)


def _decode(line):
  try:
    return line.decode('utf-8').lstrip('\ufeff').rstrip('\r\n')
  except UnicodeDecodeError as e:
    raise ValueError('the line is no UTF-8 text') from e


def _from_json(line, field):
  try:
    record = json.loads(line)
    text, identity = record[field], record.get('id')
  except (ValueError, KeyError, TypeError, AttributeError):
    text = None
  if not isinstance(text, str):
    raise ValueError(
        f'expected a JSON object with a string "{field}", got {line:.80}' +
        ('…' if len(line) > 80 else ''))
  return text, identity


class ReadRecords(beam.PTransform):
  """Reads the records of all files that match a pattern.

  If there are several, ids that are numbers of lines begin with the file's name.

  Args:
    pattern: see ``find_files``.
    field: see ``read_records``.
  """
  def __init__(self, pattern: str, field: str):
    super().__init__()
    self._pattern = pattern
    self._field = field

  def expand(self, pbegin):
    paths = find_files(self._pattern)
    field, is_one = self._field, len(paths) == 1

    def read(path):
      prefix = '' if is_one else f'{os.path.basename(path)}:'
      return read_records(path, field, prefix=prefix)

    return (
        pbegin
        | 'Files' >> beam.Create(paths)
        | 'Lines' >> beam.FlatMap(read).with_output_types(tuple[str, str])
        # What comes next is not bound to the worker that reads.
        | beam.Reshuffle())
