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

"""Embeds texts with ONNX Runtime in a loop written by hand.

    build/venv/bin/python -P onnx_loop.py TEXTS MODEL OUT

The export is at MODEL.onnx.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
from transformers import AutoTokenizer

# Of 4, 8, 16 and 32 on two cores, 32 is the slowest and the others are level.
_BATCH_SIZE = 8
_MAX_TOKENS = 256


def main(texts_file, folder, out):
  with open(texts_file, encoding='utf-8') as file:
    texts = [json.loads(line)['text'] for line in file]
  embeddings, seconds, padding_ratio = embed(texts, folder, _MAX_TOKENS)
  np.save(f'{out}.npy', embeddings)
  Path(f'{out}.json').write_text(
      json.dumps({
          'texts_per_second': len(texts) / seconds,
          'padding_ratio': padding_ratio
      }))


def embed(texts: list[str], folder: str,
          max_tokens: int) -> tuple[np.ndarray, float, float]:
  """The embeddings, the seconds without the load, and the padding ratio."""
  tokenizer = AutoTokenizer.from_pretrained(folder)
  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = len(os.sched_getaffinity(0))
  session = onnxruntime.InferenceSession(
      f'{folder}.onnx', options, providers=['CPUExecutionProvider'])
  start = time.perf_counter()
  tokens = tokenizer(texts, truncation=True, max_length=max_tokens)['input_ids']
  order = sorted(range(len(texts)), key=lambda i: -len(tokens[i]))
  embeddings = np.empty((len(texts), 384), 'f4')
  padded = 0
  for i in range(0, len(order), _BATCH_SIZE):
    chosen = order[i:i + _BATCH_SIZE]
    batch = [tokens[j] for j in chosen]
    embeddings[chosen] = _embed(session, batch)
    padded += len(batch) * len(batch[0])
  seconds = time.perf_counter() - start
  return embeddings, seconds, padded / sum(map(len, tokens))


def _embed(session, batch):
  """The normalised means of texts, the longest of which comes first."""
  ids = np.zeros((len(batch), len(batch[0])), np.int64)
  mask = np.zeros_like(ids)
  for row, tokens in enumerate(batch):
    ids[row, :len(tokens)] = tokens
    mask[row, :len(tokens)] = 1
  hidden, = session.run(['last_hidden_state'], {
      'input_ids': ids,
      'attention_mask': mask,
      'token_type_ids': np.zeros_like(ids)
  })
  # Normalised, the mean is the sum.
  total = (hidden * mask[..., None].astype('f4')).sum(axis=1)
  return total / np.linalg.norm(total, axis=1, keepdims=True)


if __name__ == '__main__':
  main(*sys.argv[1:])
