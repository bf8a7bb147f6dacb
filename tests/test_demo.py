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

"""The demo on a user's own texts, and what it says."""

import io
import json
from pathlib import Path

import pytest
from tools.demo import docstrings
from tools.demo import generation
from tools.demo import report
from tools.demo import ways
from tools.demo.progress import Progress
from tools.demo.tables import aligned
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


@pytest.fixture(name='outcomes', scope='module')
def _outcomes(tmp_path_factory):
  """Two texts, each way."""
  texts = tmp_path_factory.mktemp('demo') / 'texts.jsonl'
  texts.write_text('{"id": 0, "text": "one"}\n{"id": 1, "text": "two words"}\n')
  outcomes = []
  for name, options, flags in ways.WAYS:
    counts: list[int] = []
    outcomes.append(
        ways.embed(name, texts, options, flags, on_texts=counts.append))
    assert counts == [call.texts for call in outcomes[-1].calls]
    assert sum(counts) >= 2
  return outcomes


@pytest.fixture(name='generated', scope='module')
def _generated():
  return generation.run(here(), tokens=12)


def test_few_texts_run_through_and_have_no_percentile(outcomes):
  assert [len(outcome.embeddings)
          for outcome in outcomes] == [2] * len(ways.WAYS)
  lines = ways.table(outcomes).splitlines()
  assert len(lines) == 2 + len(ways.WAYS)
  # A batch, and the check that padding changes no result.
  assert lines[2].split()[-4:-1] == ['2', 'too', 'few']


def test_the_values_of_a_way_are_its_metrics_or_those_of_its_calls(outcomes):
  for outcome in outcomes:
    values = report.values_of(outcome)
    if outcome.name.startswith(report.FLAG_ON):
      assert values['batch_size.sum'] == 2
      assert values['arrival_order_padded_size'] >= values['real_size']
    else:
      assert values['batch_size.count'] == len(outcome.calls)
      ratio = values['padded_size'] / values['real_size']
      assert ratio == outcome.padding_ratio


def test_the_end_says_what_was_saved_and_what_to_write(outcomes, generated):
  said = report.saved(outcomes)
  on = next(o for o in outcomes if o.name == report.FLAG_ON)
  assert f'With the flag 2 texts took {on.seconds:.1f} s instead of' in said
  assert "PipelineOptions(['--experiments=smart_bucketing'])" in said
  said = report.seen_early(generated)
  assert 'iterative=IterativeOptions()' in said


def test_the_page_has_the_ways_side_by_side(
    outcomes, generated, tmp_path: Path):
  path = tmp_path / 'report.html'
  report.write(path, outcomes, generated)
  html = path.read_text(encoding='utf-8')
  for outcome in outcomes:
    assert f'{outcome.name}: {outcome.rate:.1f}"' in html
    values = report.values_of(outcome)
    ratio = values['padded_size'] / values['real_size']
    assert f'{outcome.name}: {ratio:.2f}"' in html
  for prompt in generation.PROMPTS:
    assert html.count(f'title="{prompt} one-shot: ') == 1
    assert html.count(f'title="{prompt} iterative: ') == 1


def test_the_sample_of_docstrings_is_the_same_each_time(tmp_path: Path):
  files = [tmp_path / name for name in ('a', 'b')]
  for file in files:
    docstrings.write_sample(50, file)
  assert files[0].read_bytes() == files[1].read_bytes()
  assert len(files[0].read_text().splitlines()) == 50


def test_iterative_text_is_seen_before_it_is_done(generated):
  lines = generation.table(generated).splitlines()
  assert len(lines) == 2 + len(generation.PROMPTS)
  for prompt, line in zip(generation.PROMPTS, lines[2:]):
    assert line.startswith(prompt)
    *times, chunks = line.removeprefix(prompt).replace(' s ', ' ').split()
    one_first, one_end, first, end = map(float, times)
    assert one_first == one_end
    assert 0 < first < end
    assert int(chunks) > 1
    assert len(generation.text(generated['iterative'], prompt)) > 3


def test_tables_are_even():
  assert aligned([
      ('way', 'n'), ('one', '1'), ('other', '100')
  ]).splitlines() == ['way      n', '-----  ---', 'one      1', 'other  100']


class _Terminal(io.StringIO):
  def isatty(self):
    return True


def test_progress_on_a_terminal_is_one_line():
  terminal = _Terminal()
  with Progress('flag on', 40, terminal) as progress:
    for _ in range(4):
      progress.update(10)
    # Run again, for a check.
    progress.update(1)
  said = terminal.getvalue()
  assert said.count('\n') == 1
  last = said.strip().split('\r')[-1]
  assert last.startswith('flag on') and '40 of 40 texts' in last


def test_progress_elsewhere_is_a_line_every_ten_seconds():
  now, file = 0.0, io.StringIO()
  with Progress('flag on', 40, file, clock=lambda: now) as progress:
    for _ in range(40):
      now += 1
      progress.update(1)
    progress.update(1)
  assert file.getvalue().splitlines() == [
      'flag on: 10 of 40 texts, 1.0 texts/s, 30 s left',
      'flag on: 20 of 40 texts, 1.0 texts/s, 20 s left',
      'flag on: 30 of 40 texts, 1.0 texts/s, 10 s left',
      'flag on: 40 of 40 texts, 1.0 texts/s, 0 s left',
  ]
