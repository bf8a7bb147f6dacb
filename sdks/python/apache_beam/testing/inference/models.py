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

"""Models that the tests of generation run."""

# pytype: skip-file

import os
import pathlib
import unittest

import torch
from transformers import AutoTokenizer
from transformers import LlamaConfig
from transformers import LlamaForCausalLM


def smollm2() -> str:
  """A folder of HuggingFaceTB/SmolLM2-135M-Instruct.

  The environment variable SMOLLM2_DIR names it, else it is beside the source.

  Raises:
    SkipTest: if there is none.
  """
  beside = pathlib.Path(__file__).resolve().parents[6] / 'models'
  folder = os.environ.get('SMOLLM2_DIR', str(beside / 'SmolLM2-135M-Instruct'))
  if not os.path.isdir(folder):
    raise unittest.SkipTest(
        f'There is no model in {folder}. Let SMOLLM2_DIR name a folder of '
        'SmolLM2-135M-Instruct.')
  return folder


def tokenizer():
  return AutoTokenizer.from_pretrained(smollm2())


def tiny_model():
  """Random weights, always the same, for the vocabulary of SmolLM2."""
  with torch.random.fork_rng():
    torch.manual_seed(7)
    return LlamaForCausalLM._from_config(
        LlamaConfig(
            vocab_size=49152,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=512,
            initializer_range=0.4,
            eos_token_id=2),
        attn_implementation='sdpa').eval()
