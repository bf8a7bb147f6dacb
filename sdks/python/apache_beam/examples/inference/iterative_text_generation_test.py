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

# pytype: skip-file

import io
import json
import os
import tempfile
import unittest

import pyarrow.parquet

import apache_beam as beam
from apache_beam.examples.inference import iterative_guardrail
from apache_beam.examples.inference import iterative_text_generation as example
from apache_beam.ml.inference.iterative import AsRows
from apache_beam.ml.inference.iterative import Chunk
from apache_beam.ml.inference.iterative import Progress
from apache_beam.ml.inference.iterative import Usage
from apache_beam.ml.inference.iterative import bigquery_schema
from apache_beam.utils.command_line import UsageError

_FLAG = '--experiments=iterative_inference'
# Keys of chunks.
_A, _B = ('a', 'Who?'), ('b', 'What is it?')
_PROMPTS = {
    'a': 'One two three. Four five six. Seven eight nine ten.',
    'b': 'A dragon sleeps. The goblinoid sees a GOBLIN there.',
    'c': 'naïve 🙂',
}


class _ExampleTest(unittest.TestCase):
  def setUp(self):
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = folder.name

  def run_example(self, module, lines, *args, name='in.txt'):
    """What it wrote, and its result."""
    source, target = (
        os.path.join(self.folder, file) for file in (name, 'out.jsonl'))
    with open(source, 'w', encoding='utf-8') as file:
      file.writelines(line + '\n' for line in lines)
    result = module.run([
        f'--input={source}',
        f'--output={target}',
        '--runner=FnApiRunner',
        _FLAG,
        *args,
    ],
                        save_main_session=False)
    if not os.path.exists(target):
      return [], result
    with open(target, encoding='utf-8') as file:
      return [json.loads(line) for line in file], result

  def run_generator(self, module, *args, tail=''):
    lines = [
        json.dumps({
            'id': key, 'prompt': prompt + tail
        }) for key, prompt in _PROMPTS.items()
    ]
    return self.run_example(
        module, lines, '--handler=generator', *args, name='in.jsonl')


class IterativeTextGenerationTest(_ExampleTest):
  def test_chunks(self):
    for args in ([], ['--live']):
      rows, result = self.run_generator(example, *args)
      for key, prompt in _PROMPTS.items():
        mine = sorted((row for row in rows if row['id'] == key),
                      key=lambda row: row['index'])
        self.assertEqual([row['index'] for row in mine], list(range(len(mine))))
        text = ''.join(row['text'] for row in mine)
        self.assertEqual(text, prompt + ' ')
        self.assertEqual({row['prompt'] for row in mine}, {prompt})
        self.assertEqual(len({row['request_id'] for row in mine}), 1)
        self.assertEqual([row['finish_reason'] for row in mine],
                         [None] * (len(mine) - 1) + ['stop'])
        self.assertEqual(mine[-1]['tokens'], len(prompt.split()))
      # The text is seen in parts.
      self.assertGreater(len(rows), len(_PROMPTS))
      self.assertIn(
          f'3 prompts, 21 tokens in {len(rows)} chunks, first token after ',
          example.summary(result))

  def test_finals(self):
    rows, _ = self.run_generator(example, '--finals', '--max_tokens=4')
    self.assertEqual({row['id']: row['text']
                      for row in rows},
                     {
                         'a': 'One two three. Four ',
                         'b': 'A dragon sleeps. The ',
                         'c': 'naïve 🙂 ',
                     })
    self.assertEqual(len(rows), 3)

  def test_text_file_and_the_same_prompt_twice(self):
    rows, _ = self.run_example(
        example, ['twice', '', 'twice', ' '], '--handler=generator', '--finals')
    self.assertEqual(
        sorted((row['id'], row['text'], row['error']) for row in rows),
        [('1', 'twice ', None), ('3', 'twice ', None)])
    self.assertEqual(len({row['request_id'] for row in rows}), 2)

  def test_a_real_model(self):
    from apache_beam.testing.inference.models import smollm2
    rows, _ = self.run_example(
        example, ['The capital of France is', 'One, two, three,'],
        '--handler=hf',
        f'--model={smollm2()}',
        '--max_tokens=8',
        '--finals')
    self.assertEqual([row['tokens'] for row in rows], [8, 8])
    texts = {row['prompt']: row['text'] for row in rows}
    self.assertIn('Paris', texts['The capital of France is'])
    self.assertIn('four', texts['One, two, three,'])

  def test_parquet(self):
    path = os.path.join(self.folder, 'out.parquet')
    self.run_generator(example, f'--output={path}')
    table = pyarrow.parquet.read_table(path)
    self.assertEqual(table.column_names, list(example._FIELDS))
    for key, prompt in _PROMPTS.items():
      mine = sorted((row for row in table.to_pylist() if row['id'] == key),
                    key=lambda row: row['index'])
      self.assertEqual({row['prompt'] for row in mine}, {prompt})
      self.assertEqual(''.join(row['text'] for row in mine), prompt + ' ')
      self.assertEqual(mine[-1]['tokens'], len(prompt.split()))
      self.assertLess(0, mine[-1]['total_secs'])

  def test_bigquery_has_a_schema_for_the_rows(self):
    rows = (
        beam.Pipeline() | beam.Create([]).with_output_types(example.KeyedChunk)
        | beam.Map(example.with_prompt) | AsRows()
        | beam.Select(**example._FIELDS))
    schema = bigquery_schema(rows.element_type)
    self.assertEqual([f['name'] for f in schema['fields']],
                     list(example._FIELDS))

  def test_files_and_models_that_are_not_there_are_named(self):
    for flags, message in (
        (['--handler=generator', '--input=/no/prompts'],
         '--input=/no/prompts: there is no such file'),
        (['--model=/no/model'], '--model=/no/model: there is no such folder')):
      with self.assertRaisesRegex(UsageError, message):
        self.run_example(example, ['prompt'], *flags)

  def test_arguments_that_lack_something(self):
    for args, message in (
        ([], '--handler=hf needs --model'),
        (['--handler=openai', '--model=m'], '--handler=openai needs --url')):
      with self.assertRaisesRegex(UsageError, message):
        self.run_example(example, ['prompt'], *args)

  def test_progress_is_logged(self):
    clock = iter([0, 1, 6]).__next__
    do_fn = example.ReportProgress(clock=clock)
    do_fn.setup()
    last = Chunk('r', 1, finish_reason='stop', usage=Usage(2, 12))
    with self.assertLogs(level='INFO') as logs:
      elements = [
          element for chunk in (Chunk('r', 0), last)
          for element in do_fn.process((_A, chunk))
      ]
    self.assertEqual(elements, [(_A, Chunk('r', 0)), (_A, last)])
    self.assertIn('1 prompts done, 2.0 tokens a second', logs.output[0])


class LiveTextTest(unittest.TestCase):
  def _show(self, *elements, is_terminal):
    terminal = io.StringIO()
    terminal.isatty = lambda: is_terminal
    do_fn = example.LiveText(lambda: terminal, width=30)
    do_fn.setup()
    shown = [e for element in elements for e in do_fn.process(element)]
    self.assertEqual(shown, list(elements))
    return terminal.getvalue()

  def test_lines_grow_in_place_and_stay_when_they_end(self):
    text = self._show(
        (_A, Chunk('1', 0, 'Once')), (_B, Chunk('2', 0, 'There\n\033was')),
        (_A, Chunk('1', 1, ' upon a time' * 9, finish_reason='stop')),
        (_B, Chunk('2', 1, finish_reason='error', error='engine: it died')),
        is_terminal=True)
    self.assertEqual(
        text,
        '\033[JWho?: Once\n'
        '\033[1A\033[JWho?: Once\nWhat is it?: There  was\n'
        # Whole, whatever its length.
        f'\033[2A\033[JWho?: Once{" upon a time" * 9} [stop]\n'
        'What is it?: There  was\n'
        '\033[1A\033[JWhat is it?: There  was [engine: it died]\n')

  def test_a_long_line_shows_where_it_is_cut(self):
    text = self._show((_A, Chunk('1', 0, '123456789 ' * 9)), is_terminal=True)
    line = text.removeprefix('\033[J').rstrip('\n')
    self.assertEqual(line, 'Who?: 1234…23456789 123456789 ')
    # Of two columns each, so that it still is one line.
    text = self._show((_A, Chunk('1', 0, '日本語' * 9)), is_terminal=True)
    line = text.removeprefix('\033[J').rstrip('\n')
    self.assertRegex(line, r'^Who\?: 日本…[日本語]{9}$')

  def test_one_below_the_other_without_a_terminal(self):
    text = self._show(
        (_A, Chunk('1', 0, 'Once' * 40)),
        (_A, Chunk('1', 1, finish_reason='error', error='engine: it died')),
        is_terminal=False)
    self.assertEqual(text, f'Who?: {"Once" * 40}\nWho?:  [engine: it died]\n')


class IterativeGuardrailTest(_ExampleTest):
  def test_stops_and_counts_what_is_saved(self):
    # With a tail that takes seconds.
    rows, result = self.run_generator(
        iterative_guardrail,
        '--ban',
        'goblin',
        '--max_sentences=2',
        tail=' and so on' * 15)
    found = {row['id']: row for row in rows}
    self.assertEqual(len(rows), 3)
    self.assertEqual(found['a']['text'], 'One two three. Four five six. ')
    self.assertEqual(found['a']['rule'], 'max_sentences')
    self.assertEqual(
        found['b']['text'], 'A dragon sleeps. The goblinoid sees a ')
    self.assertEqual(found['b']['rule'], 'banned: goblin')
    self.assertEqual(found['c']['text'], 'naïve 🙂' + ' and so on' * 15 + ' ')
    self.assertIsNone(found['c']['rule'])
    for key, reason in (('a', 'cancelled'), ('b', 'cancelled'), ('c', 'stop')):
      row = found[key]
      self.assertEqual(row['finish_reason'], reason)
      self.assertEqual(
          row['saved'], 64 - row['tokens'] if reason == 'cancelled' else 0)
    made = sum(row['tokens'] for row in rows)
    saved = sum(row['saved'] for row in rows)
    self.assertEqual(
        iterative_guardrail.summary(result),
        f'2 of 3 prompts were stopped: {made} tokens made, up to {saved} more '
        'would be by one-shot inference')

  def test_the_number_of_a_list_is_no_sentence(self):
    guardrail = iterative_guardrail.Guardrail(max_sentences=1)
    text = '1. Ask Dr. Smith, J. K. Lee or the U.S. Army, e.g. at 3.5 km. 2. Go'
    for size in range(len(text)):
      stops = guardrail(Progress(text[:size], (), 1, None))
      # Known with the first character of the next.
      self.assertEqual(size > text.index('2.'), stops, text[:size])
    self.assertEqual((text[:-5], 'max_sentences'), guardrail.apply(text))

  def test_words_that_are_not_complete(self):
    guardrail = iterative_guardrail.Guardrail(['elf'])
    for text, stops in (
        ('an elf', False), ('an elfin', False), ('an Elf ', True),
        ('an elf.', True), ('a shelf ', False), ('', False)):
      with self.subTest(text=text):
        self.assertEqual(guardrail(Progress(text, (), 1, None)), stops)
    # At the end no more can come.
    self.assertEqual(guardrail.apply('an elf'), ('an ', 'banned: elf'))

  def test_no_prompt_and_no_rule(self):
    _, result = self.run_example(
        iterative_guardrail, [''], '--handler=generator', '--ban', 'word')
    self.assertEqual(
        iterative_guardrail.summary(result), 'There was no prompt.')
    with self.assertRaisesRegex(UsageError, 'Give a rule'):
      self.run_example(iterative_guardrail, [''], '--handler=generator')


if __name__ == '__main__':
  unittest.main()
