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

"""A live line for each way: a bar on a terminal, else plain lines."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

from tqdm import tqdm

_BAR = (
    '{desc} |{bar}| {n_fmt} of {total_fmt} texts, {rate_fmt}, {remaining} left')


class Progress:
  """Says how many texts are done.

  Args:
    name: of the way.
    total: the number of texts.
    file: where it is said.
    every_secs: how often, where that is no terminal.
    clock: of ``time.monotonic``.
  """
  def __init__(
      self,
      name: str,
      total: int,
      file: TextIO | None = None,
      every_secs: float = 10,
      clock: Callable[[], float] = time.monotonic):
    self._name, self._total, self._done = name, total, 0
    self._file = sys.stderr if file is None else file
    self._every_secs, self._clock = every_secs, clock
    self._start = self._said = clock()
    self._bar = None
    if self._file.isatty():
      self._bar = tqdm(
          total=total,
          desc=f'{name:<32}',
          unit=' texts',
          bar_format=_BAR,
          file=self._file,
          dynamic_ncols=True)

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    if self._bar is not None:
      self._bar.close()

  def update(self, texts: int) -> None:
    """Counts texts that are done; what exceeds the total is not counted."""
    texts = min(texts, self._total - self._done)
    if not texts:
      return
    self._done += texts
    if self._bar is not None:
      self._bar.update(texts)
      return
    now = self._clock()
    if self._done < self._total and now - self._said < self._every_secs:
      return
    self._said = now
    rate = self._done / max(now - self._start, 1e-9)
    left = (self._total - self._done) / rate
    print(
        f'{self._name}: {self._done} of {self._total} texts, {rate:.1f} '
        f'texts/s, {left:.0f} s left',
        file=self._file,
        flush=True)
