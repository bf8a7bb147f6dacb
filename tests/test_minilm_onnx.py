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

"""The export of MiniLM that the build makes, through the handler and the example."""

import json
from pathlib import Path

import numpy
import pytest
import torch
from tools import minilm_onnx
from tools.layout import here
from transformers import AutoModel

from apache_beam.examples.inference import bucketed_text_embeddings as example
from apache_beam.ml.inference.onnx_inference import OnnxModelHandlerNumpy
from apache_beam.ml.inference.padding import PaddingOptions

_FILE = here().build / 'models' / minilm_onnx.NAME


@pytest.fixture(name='model')
def _model():
  return AutoModel.from_pretrained(example.default_model()).eval()


def test_padded_outputs_are_those_of_torch_for_each_text_alone(model):
  seed = torch.Generator().manual_seed(0)
  ids = [
      torch.randint(1000, 20000, (n, ), generator=seed)
      for n in (7, 1, 300, 512, 60)
  ]
  handler = OnnxModelHandlerNumpy(
      str(_FILE), providers=['CPUExecutionProvider'], padding=PaddingOptions())
  batch = [{
      'input_ids': x.numpy(), 'token_type_ids': numpy.zeros(len(x), 'int64')
  } for x in ids]
  results = list(handler.run_inference(batch, handler.load_model()))
  for x, result in zip(ids, results):
    with torch.no_grad():
      expected = model(x[None]).last_hidden_state[0]
    hidden = torch.tensor(result.inference['last_hidden_state'])
    assert hidden.shape == expected.shape
    assert (hidden - expected).abs().max() < 1e-5


def test_the_example_embeds_the_same(tmp_path: Path):
  texts = ['short', 'a text of some words, ' * 20, 'naïve café', ''] * 3
  source = tmp_path / 'in.jsonl'
  source.write_text(
      ''.join(json.dumps({'text': text}) + '\n' for text in texts))
  embeddings = []
  for arguments in ([], [f'--onnx={_FILE}']):
    out = tmp_path / 'out.jsonl'
    example.run([
        f'--input={source}',
        f'--output={out}',
        '--runner=FnApiRunner',
        '--experiments=smart_bucketing',
        *arguments
    ],
                save_main_session=False)
    rows = [json.loads(line) for line in out.open(encoding='utf-8')]
    assert len(rows) == len(texts)
    embeddings.append(
        {row['text']: torch.tensor(row['embedding'])
         for row in rows})
  torch_way, onnx_way = embeddings
  for text in texts:
    assert (torch_way[text] - onnx_way[text]).abs().max() < 1e-5
