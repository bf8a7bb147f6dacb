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

"""Embeds real texts three ways and prints what each took, then generates some.

    build/venv/bin/python -m tools.demo [--input FILE] [--texts N]
"""

import argparse
import logging
import platform
import sys
from itertools import islice
from pathlib import Path

from tools.demo import docstrings
from tools.layout import here


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--input', type=Path, help='a text or JSON Lines file')
  parser.add_argument(
      '--texts', type=int, default=1500, help='docstrings, without --input')
  args = parser.parse_args(argv)
  quiet_logs()
  # Behind the line above, because these imports log.
  import torch

  from tools.demo import ways

  folder = here().build / 'demo'
  folder.mkdir(parents=True, exist_ok=True)
  source = args.input
  if source is None:
    source = folder / 'docstrings.jsonl'
    docstrings.write_sample(args.texts, source)
  texts = folder / 'texts.jsonl'
  if not ways.numbered(source, texts):
    print(f'{source} holds no text.', file=sys.stderr)
    return 1
  warm_up(ways, texts, folder / 'first.jsonl')
  outcomes = []
  for name, options, flags in ways.WAYS:
    print(f'{name} ...', flush=True)
    outcomes.append(ways.embed(name, texts, options, flags))
  print(
      f'\n{len(outcomes[0].embeddings)} texts of {source.name}, MiniLM-L6, '
      f'batches of {ways.BATCH_SIZE}, {platform.machine()}, '
      f'{torch.get_num_threads()} threads\n')
  print(ways.table(outcomes))
  print(f'\nWhat the pipeline itself says with the {outcomes[-1].name}:\n')
  print(outcomes[-1].metrics)
  generate()
  return 0


def generate() -> None:
  """Shows when text is seen that a model makes, in this process."""
  from tools.demo import generation
  print(f'\n{generation.NAME}, one-shot and iterative ...', flush=True)
  outcomes = generation.run(here())
  print(f'\n{generation.table(outcomes)}')


def warm_up(ways, texts: Path, some: Path) -> None:
  """Keeps what a first run alone pays for out of the first way's time."""
  with texts.open(encoding='utf-8') as lines:
    some.write_text(''.join(islice(lines, 32)), encoding='utf-8')
  ways.embed('warm-up', some, {}, [])


def quiet_logs() -> None:
  """Leaves the example's progress, and errors."""
  logging.basicConfig(level=logging.INFO, format='  %(message)s')
  logging.getLogger().addFilter(
      lambda record: record.levelno != logging.WARNING)
  logging.getLogger('apache_beam').setLevel(logging.ERROR)
  from transformers.utils import logging as transformers_logging
  transformers_logging.disable_progress_bar()


if __name__ == '__main__':
  sys.exit(main())
