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

"""The demo on a user's own texts."""

import json
from pathlib import Path

import pytest
from tools.demo import docstrings
from tools.demo import generation
from tools.demo import ways
from tools.layout import here


@pytest.mark.parametrize(
    'name, text',
    [('in.txt', 'one\n\none\nthree\n'), (
        'in.jsonl',
        '{"text": "one"}\n{"id": 7, "text": "one"}\n{"text": "three"}')])
def test_every_text_has_an_id_of_its_own(name, text, tmp_path: Path):
  source, out = tmp_path / name, tmp_path / 'out.jsonl'
  source.write_text(text, encoding='utf-8')
  assert ways.numbered(source, out) == 3
  rows = [json.loads(line) for line in out.open(encoding='utf-8')]
  assert [(row['id'], row['text']) for row in rows] == [(0, 'one'), (1, 'one'),
                                                        (2, 'three')]


def test_few_texts_run_through_and_have_no_percentile(tmp_path: Path):
  texts = tmp_path / 'texts.jsonl'
  texts.write_text('{"id": 0, "text": "one"}\n{"id": 1, "text": "two words"}\n')
  outcomes = [ways.embed(*way[:1], texts, *way[1:]) for way in ways.WAYS]
  assert [len(outcome.embeddings)
          for outcome in outcomes] == [2] * len(ways.WAYS)
  lines = ways.table(outcomes).splitlines()
  assert len(lines) == 2 + len(ways.WAYS)
  # A batch, and the check that padding changes no result.
  assert '(of 2: none)' in lines[2]


def test_the_sample_of_docstrings_is_the_same_each_time(tmp_path: Path):
  files = [tmp_path / name for name in ('a', 'b')]
  for file in files:
    docstrings.write_sample(50, file)
  assert files[0].read_bytes() == files[1].read_bytes()
  assert len(files[0].read_text().splitlines()) == 50


def test_iterative_text_is_seen_before_it_is_done():
  outcomes = generation.run(here(), tokens=12)
  lines = generation.table(outcomes).splitlines()
  assert len(lines) == 2 + len(generation.PROMPTS)
  for prompt, line in zip(generation.PROMPTS, lines[2:]):
    cells = [cell.strip() for cell in line.strip('|').split('|')]
    one_first, one_end, first, end = (
        float(cell.removesuffix(' s')) for cell in cells[1:5])
    assert cells[0] == prompt
    assert one_first == one_end
    assert 0 < first < end
    assert int(cells[5]) > 1
    assert len(cells[6]) > 3
