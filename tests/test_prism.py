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
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tools.layout import here

_PRISM = here().build / 'bin' / 'prism'

_PIPELINE = '''
import json, sys
import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import window
from apache_beam.transforms.batching.options import BatchingOptions


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


@pytest.fixture(name='prism')
def _prism():
  if not _PRISM.exists():
    if os.environ.get('CI') == 'true':
      pytest.fail('build/bin/prism is missing: CI needs Go.')
    pytest.skip('build/bin/prism is missing; install Go and run make build.')
  return _PRISM


def test_batches_by_length_on_prism(prism: Path, tmp_path: Path):
  script = tmp_path / 'pipeline.py'
  script.write_text(_PIPELINE, encoding='utf-8')
  out = tmp_path / 'out.jsonl'
  done = subprocess.run([
      sys.executable,
      script,
      out,
      '--runner=PrismRunner',
      f'--prism_location={prism}',
      '--experiments=smart_bucketing'
  ],
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        text=True,
                        check=False)
  assert done.returncode == 0, done.stdout
  batches = [json.loads(line) for line in out.read_text().splitlines()]
  assert sorted(i for ids, _, _ in batches for i in ids) == list(range(200))
  for ids, lengths, start in batches:
    assert {100 * (i // 100) for i in ids} == {start}
    assert len(lengths) <= 8
    assert len(lengths) == 1 or max(lengths) * len(lengths) <= 400
  real = sum(sum(lengths) for _, lengths, _ in batches)
  padded = sum(max(lengths) * len(lengths) for _, lengths, _ in batches)
  assert padded / real < 1.15
