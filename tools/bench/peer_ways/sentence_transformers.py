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

"""Embeds texts with SentenceTransformer.encode.

    PYTHON -P sentence_transformers.py TEXTS MODEL OUT {encode_32,encode_8_by_tokens}

Without -P this file hides the package of its name.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

# The smaller batches of the two, as less of them is padding.
_BY_TOKENS = 8


def main(texts_file, folder, out, way):
  with open(texts_file, encoding='utf-8') as file:
    texts = [json.loads(line)['text'] for line in file]
  model = SentenceTransformer(folder, device='cpu')
  masks = []
  model[0].register_forward_pre_hook(
      lambda _, args: masks.append(args[0]['attention_mask']))
  start = time.perf_counter()
  if way == 'encode_32':
    embeddings = model.encode(texts, batch_size=32, show_progress_bar=False)
  else:
    embeddings = _by_tokens(model, texts)
  seconds = time.perf_counter() - start
  np.save(f'{out}.npy', embeddings)
  padded = sum(mask.numel() for mask in masks)
  real = sum(int(mask.sum()) for mask in masks)
  Path(f'{out}.json').write_text(
      json.dumps({
          'texts_per_second': len(texts) / seconds,
          'padding_ratio': padded / real
      }))


def _by_tokens(model, texts):
  """One call a batch, since encode sorts what it is given by characters."""
  tokens = model.tokenizer(
      texts, truncation=True, max_length=model.max_seq_length)['input_ids']
  order = sorted(range(len(texts)), key=lambda i: -len(tokens[i]))
  embeddings = np.empty((len(texts), model.get_embedding_dimension()), 'f4')
  for i in range(0, len(order), _BY_TOKENS):
    chosen = order[i:i + _BY_TOKENS]
    embeddings[chosen] = model.encode([texts[j] for j in chosen],
                                      batch_size=_BY_TOKENS,
                                      show_progress_bar=False)
  return embeddings


if __name__ == '__main__':
  main(*sys.argv[1:])
