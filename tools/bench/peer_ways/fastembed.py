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

"""Embeds texts with FastEmbed.

    PYTHON -P fastembed.py TEXTS MODEL OUT

The export is at MODEL.onnx. Without -P this file hides the package of its name.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource
from fastembed.common.model_description import PoolingType

# In a trial on 200 texts faster than 8, and than 256, which is the default.
_BATCH_SIZE = 32
_MAX_TOKENS = 256
_NAME = 'local/all-MiniLM-L6-v2'


def main(texts_file, folder, out):
  with open(texts_file, encoding='utf-8') as file:
    texts = [json.loads(line)['text'] for line in file]
  TextEmbedding.add_custom_model(
      _NAME,
      pooling=PoolingType.MEAN,
      normalization=True,
      sources=ModelSource(hf=_NAME),
      dim=384,
      model_file='model.onnx')
  with tempfile.TemporaryDirectory() as tmp:
    _copy_model(Path(folder), Path(tmp))
    model = TextEmbedding(
        _NAME, specific_model_path=tmp, threads=len(os.sched_getaffinity(0)))
    masks = _masks(model.model)
    start = time.perf_counter()
    embeddings = np.array(list(model.embed(texts, batch_size=_BATCH_SIZE)))
    seconds = time.perf_counter() - start
  np.save(f'{out}.npy', embeddings)
  Path(f'{out}.json').write_text(
      json.dumps({
          'texts_per_second': len(texts) / seconds,
          'padding_ratio': sum(map(len, masks)) / sum(map(sum, masks))
      }))


def _copy_model(folder, target):
  for name in ('config', 'special_tokens_map', 'tokenizer'):
    (target / f'{name}.json').symlink_to((folder / f'{name}.json').resolve())
  (target / 'model.onnx').symlink_to(Path(f'{folder}.onnx').resolve())
  # It would cut texts at the 512 tokens of this file.
  config = json.loads((folder / 'tokenizer_config.json').read_text())
  (target / 'tokenizer_config.json').write_text(
      json.dumps({
          **config, 'model_max_length': _MAX_TOKENS
      }))


def _masks(model):
  """Collects the attention masks of what the model is given."""
  masks = []
  tokenize = model.tokenize

  def kept(documents, **kwargs):
    encoded = tokenize(documents, **kwargs)
    masks.extend(one.attention_mask for one in encoded)
    return encoded

  model.tokenize = kept
  return masks


if __name__ == '__main__':
  main(*sys.argv[1:])
