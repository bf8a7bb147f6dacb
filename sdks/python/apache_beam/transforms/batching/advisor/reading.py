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

"""Reads lengths and times from CSV, JSON Lines and Parquet files."""

import argparse
import dataclasses
import datetime
import math
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import csv
from pyarrow import json
from pyarrow import parquet

from apache_beam.utils.command_line import UsageError

_READERS: dict[str, Callable[[Path], pyarrow.Table]] = {
    '.csv': csv.read_csv,
    '.jsonl': json.read_json,
    '.parquet': parquet.read_table,
}
_PER_SECOND = {'s': 1, 'ms': 1000}


class InputError(UsageError):
  """What a user can mend: the message names the file and the remedy."""


@dataclasses.dataclass(frozen=True)
class Arrivals:
  """Lengths and, where there are any, seconds since the first arrival."""
  lengths: list[int]
  times: list[float] | None


def check_numbers(
    args: argparse.Namespace,
    positive: Iterable[str],
    not_negative: Iterable[str]) -> None:
  """Checks arguments that are numbers, by name; None is not given.

  Raises:
    InputError: if one is out of range or not finite.
  """
  for name in positive:
    value = getattr(args, name)
    if value is not None and not 0 < value < math.inf:
      raise InputError(f'--{name}={value}: must be positive.')
  for name in not_negative:
    value = getattr(args, name)
    if value is not None and not 0 <= value < math.inf:
      raise InputError(f'--{name}={value}: must not be negative.')


def read(
    path: Path,
    column: str,
    time_column: str | None = None,
    time_unit: str = 's',
    speedup: float = 1.0,
    measure: Callable[[str], int] | None = None) -> Arrivals:
  """Reads a file.

  Args:
    path: ends in .csv, .jsonl or .parquet.
    column: of lengths; of texts with ``measure``.
    time_column: of numbers, or of ISO times.
    time_unit: of numbers, 's' or 'ms'.
    speedup: by which times are divided.
    measure: the length of a text.

  Raises:
    InputError: if something is missing or wrong; with the number of the row.
  """
  table = _table(path)
  if not table.num_rows:
    raise InputError(f'{path}: holds no rows.')
  values = _column(path, table, column)
  check = _text(measure) if measure else _length
  lengths = [
      check(value, f'{path}: row {row}, column {column}')
      for row, value in enumerate(values, 1)
  ]
  if not any(lengths):
    raise InputError(f'{path}: all lengths in column {column} are 0.')
  if time_column is None:
    return Arrivals(lengths, None)
  seconds = [
      _seconds(value, time_unit, f'{path}: row {row}, column {time_column}')
      for row, value in enumerate(_column(path, table, time_column), 1)
  ]
  return Arrivals(lengths, _since_first(path, seconds, speedup))


def _table(path):
  reader = _READERS.get(path.suffix)
  if reader is None:
    raise InputError(f'{path}: must end in {", ".join(_READERS)}.')
  if not path.is_file():
    raise InputError(f'{path}: there is no such file.')
  try:
    return reader(path)
  except pyarrow.ArrowInvalid as e:
    if 'empty' in str(e).lower():
      raise InputError(f'{path}: holds no rows.') from e
    raise InputError(f'{path}: cannot be read as {path.suffix}: {e}') from e


def _column(path, table, name) -> Sequence[Any]:
  if name not in table.column_names:
    raise InputError(
        f'{path}: has no column {name}. It has {", ".join(table.column_names)}.'
    )
  return table.column(name).to_pylist()


def _length(value, where):
  # One cell that is no number makes texts of a whole CSV column.
  if isinstance(value, str) and value.isascii() and value.isdigit():
    value = int(value)
  if isinstance(value, float) and value.is_integer():
    value = int(value)
  if not isinstance(value, int) or isinstance(value, bool) or value < 0:
    raise InputError(f'{where}: {value!r} is no length, a whole number from 0.')
  return value


def _text(measure):
  def check(value, where):
    if not isinstance(value, str):
      raise InputError(f'{where}: {value!r} is no text. Leave out --text.')
    return measure(value)

  return check


def _seconds(value, unit, where) -> float:
  if isinstance(value, str):
    try:
      value = datetime.datetime.fromisoformat(_microseconds(value))
    except ValueError as e:
      raise InputError(f'{where}: {value!r} is no ISO time.') from e
  # Timestamps of nanoseconds come as pandas' own, which are datetimes too.
  if isinstance(value, datetime.datetime):
    if value.tzinfo is None:
      value = value.replace(tzinfo=datetime.timezone.utc)
    return value.timestamp()
  if not isinstance(value, (int, float)) or isinstance(
      value, bool) or not math.isfinite(value):
    raise InputError(f'{where}: {value!r} is no time.')
  return value / _PER_SECOND[unit]


def _microseconds(text):
  """An ISO time without the digits after microseconds, which Python refuses."""
  head, point, fraction = text.partition('.')
  digits = len(fraction) - len(fraction.lstrip('0123456789'))
  return head + point + fraction[:min(digits, 6)] + fraction[digits:]


def _since_first(path, seconds, speedup):
  for row, (before, after) in enumerate(zip(seconds, seconds[1:]), 2):
    if after < before:
      raise InputError(
          f'{path}: row {row} is {before - after:g} s before the row above it. '
          'Sort the rows by time.')
  return [(second - seconds[0]) / speedup for second in seconds]
