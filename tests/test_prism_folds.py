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

"""Folds of chunks on a real portable runner, with a shuffle of its own."""

import collections
from collections.abc import Callable

# Each text has 20 sentences in 61 chunks, which Prism shuffles.
_HEAD = '''
import json, random, sys, time
import apache_beam as beam
from apache_beam.ml.inference.iterative import Chunk
from apache_beam.ml.inference.iterative import FinalsOnly
from apache_beam.ml.inference.iterative import FoldToPredictionResult
from apache_beam.ml.inference.iterative import Sentences
from apache_beam.ml.inference.iterative import TextSoFar
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import window
from apache_beam.transforms.periodicsequence import PeriodicImpulse

PARTS = [part for i in range(20) for part in (f'No {i}', ' is it', '. ')] + ['']


def chunk_of(i, j):
  last = j == len(PARTS) - 1
  return i % 3, Chunk(
      f'r{i}', j, PARTS[j], finish_reason='stop' if last else None,
      example=i if last else None)


def written(transform, label):
  return (
      transform
      | label + 'Line' >> beam.Map(lambda e: json.dumps([label, e]))
      | label + 'Key' >> beam.WithKeys(None)
      # Drops what is late.
      | label + 'Group' >> beam.GroupByKey()
      | label + 'Write' >> beam.FlatMap(lambda pair: [
          print(line, file=open(out, 'a'), flush=True) for line in pair[1]]))


class AtWindow(beam.DoFn):
  def process(self, pair, window=beam.DoFn.WindowParam):
    yield [pair[0], pair[1].request_id, pair[1].index, pair[1].text,
           pair[1].is_last, float(window.start), time.time()]


def fold_all(chunks):
  results = chunks | FoldToPredictionResult()
  written(results | 'R' >> beam.MapTuple(
      lambda k, r: [k, r.example, r.inference.text]), 'result')
  for transform in FinalsOnly, TextSoFar, Sentences:
    name = transform.__name__
    parts = chunks | transform()
    written(parts | name + 'At' >> beam.ParDo(AtWindow()), name)


out, *flags = sys.argv[1:]
'''

_BATCH = _HEAD + '''
with beam.Pipeline(options=PipelineOptions(flags)) as p:
  fold_all(
      p
      | beam.Create(random.sample(
          [(i, j) for i in range(12) for j in range(len(PARTS))],
          12 * len(PARTS)))
      | beam.Reshuffle()
      | beam.MapTuple(chunk_of).with_output_types(tuple[int, Chunk[int]])
      | beam.Map(lambda e: window.TimestampedValue(e, int(e[1].request_id[1:])))
      | beam.WindowInto(window.FixedWindows(6), allowed_lateness=0))
'''

# Twelve texts grow by a chunk every 150 ms, each within its window; pairs of
# chunks come in the wrong order.
_STREAMING = _HEAD + '''
class Arrive(beam.DoFn):
  def process(self, at):
    tick = round((float(at) - start) / 0.15)
    if tick < len(PARTS):
      print(json.dumps(['made', time.time()]), file=open(out, 'a'), flush=True)
      j = tick ^ 1 if tick ^ 1 < len(PARTS) else tick
      for i in range(12):
        yield chunk_of(i, j)


start = time.time()
with beam.Pipeline(options=PipelineOptions(flags)) as p:
  fold_all(
      p
      | PeriodicImpulse(start, start + 0.15 * (len(PARTS) + 2), 0.15)
      | beam.ParDo(Arrive()).with_output_types(tuple[int, Chunk[int]])
      # All ticks are in the window of the start.
      | beam.WindowInto(
          window.FixedWindows(60, offset=start % 60), allowed_lateness=0))
'''

# A text a second in the global window; of some a chunk never arrives.
_LOST = _HEAD + '''
def chunks_at(at):
  i = round(float(at) - start)
  for j in range(len(PARTS)):
    if j != 7 or i % 4:
      yield chunk_of(i, j)


start = time.time() // 10 * 10 + 10
with beam.Pipeline(options=PipelineOptions(flags)) as p:
  _ = (
      p
      | PeriodicImpulse(start, start + 16, 1)
      | beam.FlatMap(chunks_at).with_output_types(tuple[int, Chunk[int]])
      | FinalsOnly(give_up_secs=3)
      | beam.Map(lambda pair: print(
          json.dumps(['end', [pair[1].request_id, pair[1].error,
                              time.time() - start]]),
          file=open(out, 'a'), flush=True)))
counted = p.result.metrics().query()['counters']
for metric in counted:
  print(json.dumps(['metric', [metric.key.metric.name, metric.committed]]),
        file=open(out, 'a'))
'''


def _run(run_on_prism: Callable, pipeline: str, *flags: str) -> dict:
  found = collections.defaultdict(list)
  # Prism splits a slow bundle of a key and runs both parts on one state.
  for label, element in run_on_prism(
      pipeline, '--experiments=prism_disable_sdf_split', *flags):
    found[label].append(element)
  return found


def _check(found: dict, windows: list[float]):
  sentences = [f'No {i} is it. ' for i in range(20)]
  text = ''.join(sentences)
  parts = [p for i in range(20) for p in (f'No {i}', ' is it', '. ')] + ['']
  assert sorted(found['result']) == sorted([i % 3, i, text] for i in range(12))
  for name, expected in (('FinalsOnly', [(60, text, True)]), (
      'Sentences',
      [(j, s, j == 19) for j, s in enumerate(sentences)]), ('TextSoFar', [
          (j, ''.join(parts[:j + 1]), j == 60) for j in range(61)
      ])):
    assert sorted(one[:-1] for one in found[name]) == sorted(
        [i % 3, f'r{i}', *one, windows[i]]
        for i in range(12)
        for one in expected), name


def test_folds_on_prism(run_on_prism: Callable):
  _check(_run(run_on_prism, _BATCH), [6 * (i // 6) for i in range(12)])


def test_folds_of_a_stream_on_prism(run_on_prism: Callable):
  found = _run(run_on_prism, _STREAMING, '--streaming')
  _check(found, [found['FinalsOnly'][0][5]] * 12)
  # Nobody waited for the end of the texts to see a sentence.
  seen = [at for _, _, index, *_, at in found['Sentences'] if index == 0]
  assert max(seen) < max(found['made'])


def test_a_fold_gives_up_while_the_stream_goes_on(run_on_prism: Callable):
  found = _run(run_on_prism, _LOST, '--streaming')
  ends = {}
  for request_id, error, at in found['end']:
    assert request_id not in ends, found['end']
    ends[request_id] = error, at
  assert len(ends) >= 16
  lost = {f'r{i}' for i in range(0, len(ends), 4)}
  for request_id, (error, at) in ends.items():
    if request_id not in lost:
      assert error is None
      continue
    assert error.startswith(f"lost: chunk 7 of request '{request_id}'")
  # By the clock, but for those whose input ended before.
  early = [ends[request_id][0] for request_id in ('r0', 'r4', 'r8')]
  assert all(error.endswith(' in 3 s') for error in early), early
  assert ends['r0'][1] < 10
  assert dict(found['metric'])['incomplete_requests'] >= 3
