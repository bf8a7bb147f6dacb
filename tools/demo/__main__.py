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

"""Embeds real texts four ways, generates some two ways, and says what was saved.

    build/venv/bin/python -m tools.demo [--input FILE] [--texts N]
"""

import argparse
import contextlib
import logging
import platform
import sys
from itertools import islice
from pathlib import Path

from tools.demo import docstrings
from tools.layout import here

TEXTS = 400


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
      prog='python -m tools.demo', description=__doc__.splitlines()[0])
  parser.add_argument('--input', type=Path, help='a text or JSON Lines file')
  parser.add_argument(
      '--texts',
      type=int,
      default=TEXTS,
      help=f'docstrings, without --input ({TEXTS})')
  args = parser.parse_args(argv)
  quiet_logs()
  # Behind the line above, because these imports log.
  from tools.demo import report
  from tools.demo import ways

  folder = here().build / 'demo'
  folder.mkdir(parents=True, exist_ok=True)
  print('Getting texts and the model ready ...', flush=True)
  source = args.input
  if source is None:
    source = folder / 'docstrings.jsonl'
    docstrings.write_sample(args.texts, source)
  texts = folder / 'texts.jsonl'
  count = ways.numbered(source, texts)
  if not count:
    print(f'{source} holds no text.', file=sys.stderr)
    return 1
  warm_up(ways, texts, folder / 'first.jsonl')
  outcomes = embed(ways, texts, count)
  print(f'\n{ways.table(outcomes)}\n')
  generated, table = generate()
  print(f'\n{table}\n')
  page = folder / 'report.html'
  report.write(page, outcomes, generated)
  print(f'{report.saved(outcomes)}\n\n{report.seen_early(generated)}\n')
  print(f'Charts of all of it: {page.relative_to(here().root)}')
  return 0


def embed(ways, texts: Path, count: int) -> list:
  """Runs each way once."""
  import torch

  from tools.demo.progress import Progress
  print(
      f'\nMiniLM-L6 embeds {count} texts in batches of at most '
      f'{ways.BATCH_SIZE} ({platform.machine()}, {torch.get_num_threads()} '
      'threads):',
      flush=True)
  outcomes = []
  for name, options, flags in ways.WAYS:
    with Progress(name, count) as progress:
      outcomes.append(
          ways.embed(name, texts, options, flags, on_texts=progress.update))
  return outcomes


def generate() -> tuple[dict, str]:
  """Generates both ways in this process; the outcomes and a table of them."""
  from tools.demo import generation
  from tools.demo.progress import Progress
  print(f'{generation.NAME} answers four questions:', flush=True)
  with contextlib.ExitStack() as bars:

    def on_way(name):
      progress = Progress(name, len(generation.PROMPTS))
      return bars.enter_context(progress).update

    outcomes = generation.run(here(), on_way=on_way)
  return outcomes, generation.table(outcomes)


def warm_up(ways, texts: Path, some: Path) -> None:
  """Keeps what a first run alone pays for out of the first way's time."""
  with texts.open(encoding='utf-8') as lines:
    some.write_text(''.join(islice(lines, 32)), encoding='utf-8')
  ways.embed('warm-up', some, {}, [])


def quiet_logs() -> None:
  """Leaves errors."""
  logging.basicConfig(level=logging.ERROR, format='%(message)s')
  logging.getLogger('apache_beam').setLevel(logging.ERROR)
  from transformers.utils import logging as transformers_logging
  transformers_logging.disable_progress_bar()


if __name__ == '__main__':
  # The import of Beam takes seconds, in which Ctrl-C is one line too.
  try:
    from apache_beam.utils import command_line
  except KeyboardInterrupt:
    print('Interrupted.', file=sys.stderr)
    sys.exit(130)
  command_line.run(main, logging.ERROR)
