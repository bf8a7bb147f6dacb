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

"""Counts what came out of a pipeline, on its workers.

A count whose name begins with ``bad_`` is 0 where a guarantee holds. The others
are figures, in milliseconds or thousandths.
"""

import collections
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms import window

NAMESPACE = 'inference_conformance'
# Is reported where anything was judged.
JUDGED = 'judged'
STARTED = 'started'


class Report(beam.PTransform):
  """Judges all observations at the end of the input; reports as metrics."""
  def __init__(self, judge: Callable[[Sequence[Any]], Mapping[str, int]]):
    super().__init__()
    self._judge = judge

  def expand(self, observed):
    _ = (
        observed.pipeline | 'Anchor' >> beam.Create([None])
        | 'Started' >> beam.Map(_started))
    # One window for all, which ends with the input.
    into = (
        window.GlobalWindows() if observed.is_bounded else window.FixedWindows(
            10**9))
    return (
        observed
        | 'AsPair' >> beam.Map(lambda one: (None, one))
        | beam.WindowInto(into)
        | beam.GroupByKey()
        | beam.ParDo(_Judge(self._judge)))


def _started(anchor):
  Metrics.counter(NAMESPACE, STARTED).inc()
  return anchor


class _Judge(beam.DoFn):
  def __init__(self, judge):
    self._judge = judge

  def process(self, element):
    for name, value in {**self._judge([*element[1]]), JUDGED: 1}.items():
      # Of a distribution the maximum holds if the bundle is tried again.
      Metrics.distribution(NAMESPACE, name).update(int(value))
    yield None


def _once(got: Iterable[Any],
          expected: Iterable[Any],
          times: int = 1) -> dict[str, int]:
  got, expected = collections.Counter(got), collections.Counter(expected)
  for name in expected:
    expected[name] *= times
  return {
      'bad_lost': (expected - got).total(),
      'bad_duplicated': (got - expected).total()
  }


def of_batches(
    seen: Sequence[tuple[list[tuple[int, int]], int]],
    *,
    indices: Iterable[int],
    max_count: int,
    max_padded_size: int,
    window_secs: int,
    times: int = 1) -> dict[str, int]:
  """Of batches of (index, length) pairs, with the start of their window.

  Args:
    seen: the batches.
    indices: those that went in; each is the second of its event time.
    max_count, max_padded_size: the limits of a batch.
    window_secs: how long a window is.
    times: in how many windows an element is.
  """
  got, mixed, too_large, padded, real = [], 0, 0, 0, 0
  for batch, start in seen:
    longest = max(length for _, length in batch)
    got += [index for index, _ in batch]
    mixed += sum(not start <= i < start + window_secs for i, _ in batch)
    size = longest * len(batch)
    too_large += len(batch) > max_count or (
        len(batch) > 1 and size > max_padded_size)
    padded += size
    real += sum(length for _, length in batch)
  return {
      **_once(got, indices, times),
      'bad_mixed_windows': mixed,
      'bad_limits': too_large,
      'padding_permille': round(1000 * padded / max(1, real)),
  }


def of_elements(
    seen: Sequence[tuple[list[int], float]],
    *,
    indices: Iterable[int],
    most_secs: float | None = None) -> dict[str, int]:
  """Of groups of elements, with how long their oldest one waited."""
  counts = _once((index for some, _ in seen for index in some), indices)
  if most_secs is not None:
    longest = max((wait for _, wait in seen), default=0.0)
    counts['bad_waits'] = sum(wait > most_secs for _, wait in seen)
    counts['longest_wait_msec'] = round(1000 * longest)
  return counts


def of_chunks(
    seen: Sequence[tuple],
    *,
    texts: Mapping[str, str],
    failed: str | None = None,
    first_before_last: bool = False) -> dict[str, int]:
  """Of chunks: (request id, index, is last, text, error, when it was seen).

  Args:
    seen: the chunks.
    texts: by request id, what the model makes.
    failed: how the error of the request ``bad`` begins; None: there is none.
    first_before_last: whether the first chunk of each is to be seen before the
      last chunk of any.
  """
  by_id = collections.defaultdict(list)
  for chunk in seen:
    by_id[chunk[0]].append(chunk[1:])
  bad = by_id.pop('bad', [])
  wrong = sum(
      _text(by_id[name]) != texts.get(name) for name in {*by_id, *texts})
  counts = {
      'bad_duplicated': len(seen) - len({chunk[:2]
                                         for chunk in seen}),
      'bad_lost': sum(not by_id[name] for name in texts),
      'bad_texts': wrong,
      'bad_failures': (
          bool(bad) if failed is None else
          [str(error)[:len(failed)] for *_, error, _ in bad] != [failed]),
      'chunks': len(seen),
  }
  if first_before_last and by_id and all(by_id.values()):
    firsts = [min(chunk[-1] for chunk in chunks) for chunks in by_id.values()]
    lasts = [max(chunk[-1] for chunk in chunks) for chunks in by_id.values()]
    counts['bad_order'] = max(firsts) >= min(lasts)
    counts['first_to_last_chunk_msec'] = round(
        1000 * (max(lasts) - min(firsts)))
  return counts


def _text(chunks):
  """The text of a request's chunks, None if one is lost or follows the last."""
  chunks = sorted(chunks, key=lambda chunk: chunk[0])
  if [chunk[0] for chunk in chunks] != [*range(len(chunks))]:
    return None
  if [chunk[1] for chunk in chunks] != [False] * (len(chunks) - 1) + [True]:
    return None
  return ''.join(chunk[2] for chunk in chunks)


def of_arrivals(
    seen: Sequence[tuple],
    *,
    count: int,
    text_of: Callable[[str], str],
    most_secs: float) -> dict[str, int]:
  """Of the chunks of prompts that name when they came, one after another."""
  prompts = {chunk[0] for chunk in seen}
  counts = of_chunks(seen, texts={name: text_of(name) for name in prompts})
  waits = {
      name: min(chunk[-1]
                for chunk in seen if chunk[0] == name) - float(name.split()[1])
      for name in prompts
  }
  return {
      **counts,
      'bad_lost': max(0, count - len(prompts)),
      'bad_waits': sum(wait > most_secs for wait in waits.values()),
      'first_chunk_msec': round(1000 * max(waits.values(), default=0.0)),
  }
