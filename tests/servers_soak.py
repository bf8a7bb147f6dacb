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

"""Iterative inference on real OpenAI-compatible servers; `make soak` runs it.

    build/venv/bin/python -m tests.servers_soak [SERVER ...]

Not collected by pytest: it makes environments and takes minutes. Each server
gets the same prompts at both endpoints in both modes, and what comes is held
against the server's own answer that is no stream. Then it is killed amid a text
and started again. The end is a table; the status is how many cells are wrong.
"""

import collections
import contextlib
import dataclasses
import json
import logging
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from collections.abc import Iterator

from tools import servers
from tools import smollm
from tools import vllm_env
from tools.layout import here

import apache_beam as beam
from apache_beam.ml.inference.base import KeyedModelHandler
from apache_beam.ml.inference.base import RunInference
from apache_beam.ml.inference.iterative import IterativeOptions
from apache_beam.ml.inference.openai_inference import Backoff
from apache_beam.ml.inference.openai_inference import OpenAIChatModelHandler
from apache_beam.ml.inference.openai_inference import OpenAICompletionsModelHandler
from apache_beam.options.pipeline_options import PipelineOptions

LAYOUT = here()
MODEL = LAYOUT.build / 'models' / smollm.NAME
NAME, CONTEXT = 'smol', 1024
# Results of one sequence at a time are the same each time only in float32.
VLLM = (
    *('--served-model-name', NAME, '--max-model-len', str(CONTEXT)),
    *('--dtype', 'float32', '--max-num-seqs', '1', '--enforce-eager'))
HANDLERS = {
    'completions': OpenAICompletionsModelHandler,
    'chat': OpenAIChatModelHandler
}
GREEDY = {'max_tokens': 24, 'temperature': 0}
SCHEMA = {
    'type': 'object',
    'properties': {
        'name': {
            'type': 'string', 'maxLength': 12
        }
    },
    'required': ['name'],
    'additionalProperties': False
}
FORM = {
    'response_format': {
        'type': 'json_schema',
        'json_schema': {
            'name': 'person', 'schema': SCHEMA
        }
    }
}
# By name: the prompt, and what the arguments have beside GREEDY.
PROMPTS = {
    'emoji': ('A list of emoji: 😀 🚀 🎉 😀 🚀 🎉 😀 🚀', {}),
    'cjk': ('一、二、三、四、五、六、', {}),
    'empty': ('', {}),
    'too long': ('one two three ' * 500, {}),
    'stop': (
        'One, two, three, four, five, six,', {
            'stop': ['ten', ' eight,', 'never']
        }),
    'schema': ('A person in JSON: ', {
        'extra_body': FORM
    }),
}
# Of these, all are under way at the same time, by one transform.
ALIKE = (('emoji', 'cjk', 'empty', 'too long'), ('stop', ), ('schema', ))
# A server takes up to a minute to start again; one that refuses by a status for
# what may pass is asked for as long.
STALL_SECS = 120
LONG = ('Once upon a time there was a', {'max_tokens': 120})
# What came, by the name of a prompt; of an importable module.
CHUNKS: dict[str, list] = collections.defaultdict(list)


def keep(name, chunk):
  CHUNKS[name].append(chunk)


@dataclasses.dataclass
class Target:
  """A server as it is reached: what is killed, and the model by endpoint."""
  url: str
  killed: servers.Server
  models: dict[str, str]
  # Whether it goes on with a chat from half of an answer.
  resumes_chats: bool = False
  # Whether it makes the same text of a prompt that has half of it. The kernels
  # of llama.cpp for many tokens round otherwise than those for one.
  repeats: bool = True
  # Whether it gives 'stop' as the reason for a chat whose server has died, as
  # LiteLLM 1.80 does, which nobody can tell from an end.
  hides_deaths: bool = False
  # Whether calls at the same time end each other, as those of llama-cpp-python
  # do, and it gives 'stop' as the reason, as LiteLLM 1.80 does in front of it.
  hides_cut_calls: bool = False


@contextlib.contextmanager
def _transformers() -> Iterator[Target]:
  with servers.transformers_serve(LAYOUT) as server:
    yield Target(
        server.url, server, dict.fromkeys(HANDLERS, str(MODEL.resolve())))


@contextlib.contextmanager
def _llama_cpp() -> Iterator[Target]:
  with servers.llama_cpp(LAYOUT, NAME, CONTEXT) as server:
    yield Target(
        server.url, server, dict.fromkeys(HANDLERS, NAME), repeats=False)


@contextlib.contextmanager
def _litellm(kills_upstream: bool = False) -> Iterator[Target]:
  # By default each call would end the one before, and the proxy say 'stop'.
  options = ('--interrupt_requests', 'false')
  with servers.llama_cpp(LAYOUT, NAME, CONTEXT, *options) as upstream:
    with servers.litellm(LAYOUT, NAME, upstream.url) as proxy:
      yield Target(
          proxy.url,
          upstream if kills_upstream else proxy, {
              'completions': f'{NAME}-text', 'chat': NAME
          },
          repeats=False,
          hides_deaths=kills_upstream,
          hides_cut_calls=True)


@contextlib.contextmanager
def _vllm() -> Iterator[Target]:
  with vllm_env.process(LAYOUT, MODEL, *VLLM) as server:
    yield Target(
        server.url, server, dict.fromkeys(HANDLERS, NAME), resumes_chats=True)


TARGETS: dict[str, Callable] = {
    'transformers': _transformers,
    'llama_cpp': _llama_cpp,
    'litellm': _litellm,
    'litellm, its server killed': lambda: _litellm(True),
    'vllm': _vllm,
}


def whole_answer(
    target: Target, endpoint: str, prompt: str, args: dict) -> dict:
  """The server's own answer, no stream: text and finish, or error."""
  body = {
      'model': target.models[endpoint],
      **args,
      **args.get('extra_body', {}),
      'stream': False
  }
  body.pop('extra_body', None)
  path = '/completions'
  if endpoint == 'chat':
    path = '/chat/completions'
    body['messages'] = [{'role': 'user', 'content': prompt}]
  else:
    body['prompt'] = prompt
  request = urllib.request.Request(
      target.url + path,
      json.dumps(body).encode(), {'content-type': 'application/json'})
  try:
    with urllib.request.urlopen(request, timeout=600) as answer:
      choice = json.load(answer)['choices'][0]
  except urllib.error.HTTPError as e:
    return {'error': e.read().decode()}
  text = choice.get('text') or (choice.get('message') or {}).get('content')
  return {'text': text or '', 'finish': choice['finish_reason']}


def run(target: Target, endpoint: str, mode: str, prompts: dict) -> None:
  """Fills CHUNKS with what a pipeline makes of prompts with equal arguments."""
  CHUNKS.clear()
  handler = HANDLERS[endpoint](
      target.url, target.models[endpoint], backoff=Backoff(300, 0.5, 2))
  *_, (_, args) = prompts.values()
  with beam.Pipeline(runner='FnApiRunner',
                     options=PipelineOptions(
                         ['--experiments=iterative_inference'])) as p:
    _ = (
        p | beam.Create([(name, prompt)
                         for name, (prompt, _) in prompts.items()])
        | RunInference(
            KeyedModelHandler(handler),
            inference_args={
                **GREEDY, **args
            },
            iterative=IterativeOptions(
                mode=mode, chunk_tokens=4, stall_timeout_secs=STALL_SECS))
        | beam.MapTuple(keep))


def came(name: str) -> tuple[str, str, str | None]:
  """Text, finish reason and error of a prompt, if its chunks are in order."""
  chunks = CHUNKS[name]
  assert [c.index for c in chunks] == list(range(len(chunks))), chunks
  assert [c.is_last for c in chunks].index(True) == len(chunks) - 1, chunks
  return (
      ''.join(c.text for c in chunks),
      chunks[-1].finish_reason,
      chunks[-1].error)


def problem_of(name: str, args: dict, whole: dict) -> str | None:
  """What is wrong with what came, if anything is."""
  text, finish, error = came(name)
  if name == 'empty':
    # No server is asked.
    return None if error and 'the prompt is empty' in error else repr(error)
  if 'error' in whole:
    # Its words are in the error.
    words = json.loads(whole['error'])
    for key in ('error', 'message', 'detail'):
      words = words.get(key, words) if isinstance(words, dict) else words
    # LiteLLM begins those of a stream otherwise.
    words = str(words).rpartition(' - ')[2][:60]
    return None if error and words in error else f'{error} {words}'
  wanted = whole['text']
  for stop in args.get('stop', ()):
    # Not all servers cut there.
    wanted = wanted.split(stop)[0]
  # Streams leave out what never became a character.
  if (text.rstrip('\ufffd'), error) != (wanted.rstrip('\ufffd'), None):
    return f'{text!r} ({error}), not {wanted!r}'
  is_cut = wanted != whole['text'] or 'stop' in args
  wanted_finish = 'stop' if is_cut else whole['finish']
  return None if finish == wanted_finish else f'{finish}, not {wanted_finish}'


def kill_amid(
    target: Target, endpoint: str, mode: str, whole: dict) -> str | None:
  """Kills the server when a long text has begun; what is wrong then."""
  killed = []

  def kill():
    while len(CHUNKS['long']) < 3:
      if over.wait(0.005):
        return
    killed.append(''.join(c.text for c in CHUNKS['long']))
    target.killed.kill()
    target.killed.start()

  over = threading.Event()
  # So that it does not see the chunks of the run before.
  CHUNKS.clear()
  killer = threading.Thread(target=kill)
  killer.start()
  try:
    run(target, endpoint, mode, {'long': LONG})
  finally:
    over.set()
    killer.join()
  text, finish, error = came('long')
  if not killed:
    return 'the text was there before the server was killed'
  if endpoint == 'chat' and not target.resumes_chats:
    has_end = error or target.hides_deaths and finish == 'stop'
    is_part = whole['text'].startswith(text) and text.startswith(killed[0])
    return None if has_end and is_part else f'{text!r} ({finish}, {error})'
  if error or finish != 'length' or not text.startswith(killed[0]):
    return f'{text!r} ({finish}, {error})'
  if text == whole['text'] or not target.repeats:
    return None
  return f'differs: {text!r}, {whole["text"]!r}'


def soak(name: str) -> list[tuple[str, str, str, str | None]]:
  """(endpoint, mode, prompt, what is wrong) of a server."""
  found = []
  with TARGETS[name]() as target:
    for endpoint in HANDLERS:
      wholes = {
          prompt: whole_answer(target, endpoint, text, {
              **GREEDY, **args
          })
          for prompt, (text, args) in {
              **PROMPTS, 'long': LONG
          }.items() if text
      }
      for mode in ('in_bundle', 'durable'):
        came_of = {}
        groups = ALIKE
        if target.hides_cut_calls:
          groups = [(name, ) for name in PROMPTS]
        for group in groups:
          run(target, endpoint, mode, {name: PROMPTS[name] for name in group})
          came_of.update(CHUNKS)
        CHUNKS.update(came_of)
        for prompt, (_, args) in PROMPTS.items():
          problem = problem_of(prompt, args, wholes.get(prompt, {}))
          found.append((endpoint, mode, prompt, problem))
        problem = kill_amid(target, endpoint, mode, wholes['long'])
        found.append((endpoint, mode, 'killed', problem))
        print(f'{name}, {endpoint}, {mode}: done', flush=True)
        time.sleep(1)
  return found


def main(names: list[str]) -> int:
  logging.disable(logging.CRITICAL)
  columns = [*PROMPTS, 'killed']
  rows, problems = [], []
  for name in names or TARGETS:
    found = {tuple(cell): problem for *cell, problem in soak(name)}
    for endpoint in HANDLERS:
      for mode in ('in_bundle', 'durable'):
        cells = [found[endpoint, mode, column] for column in columns]
        rows.append((
            name,
            endpoint,
            mode,
            *('right' if cell is None else 'WRONG' for cell in cells)))
        problems += [
            f'{name}, {endpoint}, {mode}, {column}: {cell}'
            for column, cell in zip(columns, cells) if cell is not None
        ]
  print(f'| server | endpoint | mode | {" | ".join(columns)} |')
  print('|' + '---|' * (3 + len(columns)))
  for row in rows:
    print(f'| {" | ".join(row)} |')
  print('\n'.join(problems))
  total = len(rows) * len(columns)
  print(f'{total - len(problems)} of {total} are right')
  return len(problems)


if __name__ == '__main__':
  # So that pickled functions are those of an importable module.
  from tests import servers_soak
  sys.exit(servers_soak.main(sys.argv[1:]))
