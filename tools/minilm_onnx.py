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

"""Exports the MiniLM that a package ships to ONNX, with PyTorch's exporter.

    build/venv/bin/python -m tools.minilm_onnx FILE

Batch and length stay variable. The inputs are the names that its tokenizer
gives, and the output is last_hidden_state.
"""

import argparse
import sys
from pathlib import Path

NAME = 'all-MiniLM-L6-v2.onnx'
_INPUTS = ('input_ids', 'attention_mask', 'token_type_ids')


def export(target: Path) -> None:
  """Writes the graph and its float32 weights, 91 MB, to one file."""
  import torch
  from transformers import AutoModel

  from apache_beam.examples.inference import bucketed_text_embeddings as example

  class Encoder(torch.nn.Module):
    """Takes its arguments in order and returns one tensor."""
    def __init__(self):
      super().__init__()
      # Of sdpa the exporter also keeps the search for rows that are all masked.
      self.model = AutoModel.from_pretrained(
          example.default_model(), attn_implementation='eager').eval()

    def forward(self, *inputs):
      return self.model(**dict(zip(_INPUTS, inputs))).last_hidden_state

  # Each of its own: one tensor given twice is taken for one input.
  inputs = tuple(torch.ones(2, 8, dtype=torch.int64) for _ in _INPUTS)
  sizes = {0: torch.export.Dim('batch'), 1: torch.export.Dim('tokens', max=512)}
  torch.onnx.export(
      Encoder(),
      inputs,
      target,
      input_names=_INPUTS,
      output_names=['last_hidden_state'],
      dynamic_shapes=((sizes, ) * len(_INPUTS), ),
      dynamo=True,
      external_data=False,
      verbose=False)


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('file', type=Path)
  export(parser.parse_args().file)
  return 0


if __name__ == '__main__':
  sys.exit(main())
