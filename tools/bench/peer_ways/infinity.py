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

"""Embeds texts with Infinity's engine, in this process.

    PYTHON -P infinity.py TEXTS MODEL OUT
"""

import asyncio
import json
import sys
import time
from pathlib import Path

import numpy as np
from infinity_emb import AsyncEmbeddingEngine
from infinity_emb import EngineArgs


def main(texts_file, folder, out):
  with open(texts_file, encoding='utf-8') as file:
    texts = [json.loads(line)['text'] for line in file]
  engine = AsyncEmbeddingEngine.from_args(
      EngineArgs(
          model_name_or_path=folder,
          engine='torch',
          device='cpu',
          dtype='float32',
          batch_size=32,
          model_warmup=False))
  embeddings, seconds = asyncio.run(_embed(engine, texts))
  np.save(f'{out}.npy', np.array(embeddings))
  # Unknown: its BetterTransformer takes out most of the padding again, by nested
  # tensors.
  Path(f'{out}.json').write_text(
      json.dumps({
          'texts_per_second': len(texts) / seconds, 'padding_ratio': None
      }))


async def _embed(engine, texts):
  async with engine:
    start = time.perf_counter()
    embeddings, _ = await engine.embed(sentences=texts)
    return embeddings, time.perf_counter() - start


if __name__ == '__main__':
  main(*sys.argv[1:])
