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

"""Durable inference on two worker processes that trade texts."""

from collections.abc import Callable

_TEXTS, _TOKENS = 20, 64
_PIPELINE = f'''
import json, os, sys
import apache_beam as beam
from apache_beam.ml.inference.base import RunInference
from apache_beam.testing.inference.clock_session import ClockModelHandler
from apache_beam.ml.inference.iterative import IterativeOptions
from apache_beam.options.pipeline_options import PipelineOptions

out, *flags = sys.argv[1:]
with beam.Pipeline(options=PipelineOptions(flags)) as p:
  (p
   | beam.Create([f'prompt {{i}}' for i in range({_TEXTS})])
   | beam.Reshuffle()
   | RunInference(
       ClockModelHandler(tokens={_TOKENS}, rate=20),
       iterative=IterativeOptions(mode='durable', request_id_fn=str))
   | beam.Map(lambda c: (
       c.request_id, [c.index, list(c.token_ids), c.finish_reason, os.getpid()]))
   | beam.GroupByKey()
   | beam.MapTuple(lambda prompt, parts: json.dumps([prompt, sorted(parts)]))
   | beam.io.WriteToText(out, num_shards=1, shard_name_template=''))
'''


def test_nothing_is_lost_or_doubled(run_pipeline: Callable):
  texts = run_pipeline(
      _PIPELINE,
      '--experiments=iterative_inference',
      '--runner=FnApiRunner',
      '--direct_num_workers=2',
      '--direct_running_mode=multi_processing')
  assert sorted(p for p, _ in texts) == sorted(
      f'prompt {i}' for i in range(_TEXTS))
  processes, traded = set(), 0
  for _, parts in texts:
    assert [index for index, *_ in parts] == list(range(len(parts)))
    reasons = [reason for _, _, reason, _ in parts]
    assert reasons == [None] * (len(parts) - 1) + ['length']
    ids = [i for _, chunk, _, _ in parts for i in chunk]
    assert len(ids) == _TOKENS
    # As the fake engine makes them: each 7,919 from the one before.
    assert {(b - a) % 50_000 for a, b in zip(ids, ids[1:])} == {7919}
    makers = {process for *_, process in parts}
    processes |= makers
    traded += len(makers) > 1
  assert len(processes) == 2
  assert traded
