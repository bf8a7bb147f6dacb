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

"""The series on a real portable runner: Prism, a process of its own."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_PIPELINE = '''
import json, sys
import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import window
from apache_beam.transforms.batching import BatchingOptions


class Describe(beam.DoFn):
  def process(self, batch, window=beam.DoFn.WindowParam):
    yield json.dumps([[i for i, _ in batch], [len(t) for _, t in batch],
                      window.start.micros // 1000000])


out, *flags = sys.argv[1:]
with beam.Pipeline(options=PipelineOptions(flags)) as p:
  (p
   | beam.Create([None])
   | beam.FlatMap(lambda _: [(i, 'x' * (1 + 37 * i % 100)) for i in range(200)])
   | beam.Map(lambda e: window.TimestampedValue(e, e[0]))
   | beam.WindowInto(window.FixedWindows(100))
   | beam.BatchElements(8, 8, length_fn=lambda e: len(e[1]),
                        options=BatchingOptions(max_padded_size=400))
   | beam.ParDo(Describe())
   | beam.io.WriteToText(out, num_shards=1, shard_name_template=''))
'''

# Elements come every 50 ms for 6 s and wait for at most 2 s.
_STREAMING = '''
import json, sys, time
import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import window
from apache_beam.transforms.periodicsequence import PeriodicImpulse


class Arrive(beam.DoFn):
  def process(self, at, start):
    i = round((float(at) - start) / 0.05)
    yield i, 1 + 37 * i % 100, time.time()


class Describe(beam.DoFn):
  def process(self, batch, timestamp=beam.DoFn.TimestampParam):
    now = time.time()
    yield json.dumps([[i for i, _, _ in batch], [n for _, n, _ in batch],
                      max(now - at for _, _, at in batch), float(timestamp)])


out, *flags = sys.argv[1:]
start = time.time()
with beam.Pipeline(options=PipelineOptions(flags)) as p:
  (p
   | PeriodicImpulse(start, start + 12, 0.05)
   | beam.ParDo(Arrive(), start)
   | beam.WindowInto(window.FixedWindows(6, offset=start % 6))
   | beam.BatchElements(max_batch_size=8, length_fn=lambda e: e[1],
                        max_batch_duration_secs=2)
   | beam.ParDo(Describe())
   | beam.WithKeys(None)
   | beam.GroupByKey()
   | beam.FlatMap(lambda pair: [print(line, file=open(out, 'a'))
                                for line in pair[1]]))
'''

# Prism splits a slow bundle of a key and runs both parts on one state.
_FLAGS = (
    '--experiments=smart_bucketing', '--experiments=prism_disable_sdf_split')


def _padding_ratio(batches: list[list[int]]) -> float:
  return sum(max(b) * len(b) for b in batches) / sum(map(sum, batches))


def test_batches_by_length_on_prism(run_on_prism: Callable):
  batches = run_on_prism(_PIPELINE, *_FLAGS)
  assert sorted(i for ids, _, _ in batches for i in ids) == list(range(200))
  for ids, lengths, start in batches:
    assert {100 * (i // 100) for i in ids} == {start}
    assert len(lengths) <= 8
    assert len(lengths) == 1 or max(lengths) * len(lengths) <= 400
  assert _padding_ratio([lengths for _, lengths, _ in batches]) < 1.15


def test_elements_wait_across_bundles_on_prism(run_on_prism: Callable):
  text = _PIPELINE.replace('8, 8, length_fn', '1, 8, length_fn').replace(
      'options=B', 'max_batch_duration_secs=60, options=B')
  batches = run_on_prism(text, *_FLAGS)
  assert sorted(i for ids, _, _ in batches for i in ids) == list(range(200))
  for ids, lengths, start in batches:
    assert {100 * (i // 100) for i in ids} == {start}
    assert len(lengths) == 1 or max(lengths) * len(lengths) <= 400
  assert _padding_ratio([lengths for _, lengths, _ in batches]) < 1.3


def test_no_wait_exceeds_the_deadline_in_streaming(run_on_prism: Callable):
  # Behind a GroupByKey that drops what is late.
  batches = run_on_prism(_STREAMING, '--streaming', *_FLAGS)
  found = sorted(i for ids, _, _, _ in batches for i in ids)
  assert found == list(range(len(found))) and len(found) >= 239
  assert max(len(ids) for ids, _, _, _ in batches) > 1
  # Up to the 6 s of a window, where nothing leaves at its deadline. A busy
  # machine fires timers late; two deadlines would be 4 s.
  assert max(wait for _, _, wait, _ in batches) < 3.9


def test_first_tokens_pass_a_shuffle_while_texts_grow(prism: Path):
  done = subprocess.run([
      sys.executable,
      '-m',
      'apache_beam.testing.benchmarks.iterative_inference_benchmark',
      '--handler=clock',
      '--prompts=20',
      '--ways',
      'one_shot',
      'durable',
      '--runner=PrismRunner',
      f'--prism_location={prism}',
  ],
                        capture_output=True,
                        text=True,
                        check=False)
  assert done.returncode == 0, done.stderr
  figures = json.loads(done.stdout)
  assert (figures['missing'], figures['doubled']) == (0, 0)
  assert figures['tokens'] == 20 * 64
  assert figures['texts_equal'] == 1.0
  # The clock makes the first token after 0.05 s, the last after 3.2 s.
  assert figures['durable']['ttft_p95'] < figures['one_shot']['ttft_p50'] / 2
