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

"""Embeds texts with Ray Data, on this machine alone.

    PYTHON -P ray_data.py TEXTS MODEL OUT
"""

import json
import os
import secrets
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

_BATCH_SIZE = 32


class Embed:
  """An actor with a model, which also says what its batches were."""
  def __init__(self, folder):
    from sentence_transformers import SentenceTransformer
    self._model = SentenceTransformer(folder, device='cpu')
    self._masks = []
    self._model[0].register_forward_pre_hook(
        lambda _, args: self._masks.append(args[0]['attention_mask']))
    self._loaded = time.time()

  def __call__(self, batch):
    self._masks.clear()
    embeddings = self._model.encode(
        batch['text'], batch_size=_BATCH_SIZE, show_progress_bar=False)
    count = len(embeddings)
    return {
        'id': batch['id'],
        'embedding': embeddings,
        'padded': [sum(m.numel() for m in self._masks) / count] * count,
        'real': [sum(int(m.sum()) for m in self._masks) / count] * count,
        'loaded': [self._loaded] * count,
    }


def main(texts_file, folder, out):
  with open(texts_file, encoding='utf-8') as file:
    records = [json.loads(line) for line in file]
  # Read by the import. Without a token Ray would write one to the home folder.
  os.environ |= {
      'RAY_AUTH_MODE': 'token', 'RAY_AUTH_TOKEN': secrets.token_hex()
  }
  import ray
  cores = len(os.sched_getaffinity(0))
  with tempfile.TemporaryDirectory() as tmp:
    ray.init(
        num_cpus=cores,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=tmp)
    embedded = ray.data.from_items(records).map_batches(
        Embed,
        fn_constructor_args=[folder],
        batch_size=_BATCH_SIZE,
        # Faster than one actor with all cores.
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=cores))
    rows = embedded.take_all()
    # Since a model is loaded: the start of Ray's processes is not counted.
    seconds = time.time() - min(row['loaded'] for row in rows)
    ray.shutdown()
  rows.sort(key=lambda row: row['id'])
  np.save(f'{out}.npy', np.array([row['embedding'] for row in rows]))
  padded, real = (sum(row[name] for row in rows) for name in ('padded', 'real'))
  Path(f'{out}.json').write_text(
      json.dumps({
          'texts_per_second': len(records) / seconds,
          'padding_ratio': padded / real
      }))


if __name__ == '__main__':
  main(*sys.argv[1:])
