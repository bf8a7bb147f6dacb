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

"""A microbenchmark of generation through a session, against the bare engine.

Generates for some prompts at once, in turn with transformers' continuous
batching alone, which makes token ids, and through a HuggingFaceSession, which
makes text. Times count from before the first submission.

Run as
  python -m apache_beam.tools.generation_session_microbenchmark --model DIR
"""

# pytype: skip-file

import argparse
import logging
import os
import platform
import statistics
import time

import numpy as np
import torch
import transformers

from apache_beam.ml.inference.huggingface_generation import HuggingFaceGenerationModelHandler
from apache_beam.ml.inference.iterative.engines.huggingface import engine as huggingface_engine
from apache_beam.ml.inference.iterative.engines.huggingface import session as huggingface_session
from apache_beam.ml.inference.iterative.session import Request

_PROMPTS = ('The capital of France is', 'Once upon a time', 'Why is the sky')


class _TimedSession(huggingface_session.HuggingFaceSession):
  """Adds up the CPU time of handing out."""
  cpu_secs = 0.0

  def _hand_out(self, output):
    start = time.thread_time()
    super()._hand_out(output)
    self.cpu_secs += time.thread_time() - start


def _texts(count):
  return [f'{i}. {_PROMPTS[i % len(_PROMPTS)]}' for i in range(count)]


def _summary(firsts, total, cpu):
  return {
      'ttft_p50': float(np.percentile(firsts, 50)),
      'ttft_p95': float(np.percentile(firsts, 95)),
      'total': total,
      # Of all threads; other processes make it grow less than the others.
      'cpu': cpu
  }


def bare(model, tokenizer, prompts, tokens):
  """Seconds of the engine alone."""
  # The session's defaults.
  manager = huggingface_engine.new_engine(
      model, False, frozenset(), 64, 256, 512)
  manager.start()
  cpu, start = time.process_time(), time.monotonic()
  for i, text in enumerate(_texts(prompts)):
    manager.add_request(
        tokenizer(text)['input_ids'],
        str(i),
        max_new_tokens=tokens,
        streaming=True)
  first, finished = {}, 0
  while finished < prompts:
    output = manager.get_result(timeout=60)
    now = time.monotonic() - start
    first.setdefault(output.request_id, now)
    finished += output.is_finished()
  cpu = time.process_time() - cpu
  manager.stop(hard_stop=True)
  return _summary(list(first.values()), now, cpu)


def through_session(model, tokenizer, prompts, tokens):
  """Seconds of a session, and milliseconds of CPU to hand out a token."""
  session = _TimedSession(model, tokenizer)
  args = {'max_new_tokens': tokens, 'ignore_eos': True}
  cpu, start = time.process_time(), time.monotonic()
  for i, text in enumerate(_texts(prompts)):
    session.submit(Request(str(i), text, args))
  first, going = {}, set(map(str, range(prompts)))
  while going:
    session.wait(60)
    for request_id in list(going):
      delta = session.poll(request_id)
      if delta is None:
        continue
      now = time.monotonic() - start
      first.setdefault(request_id, now)
      if delta.finish_reason is not None:
        assert not delta.error, delta
        going.remove(request_id)
  cpu = time.process_time() - cpu
  session.close()
  return {
      **_summary(list(first.values()), now, cpu),
      'hand_out_ms': session.cpu_secs * 1000 / (prompts * tokens)
  }


def run_benchmark(model, tokenizer, num_runs=5, prompts=16, tokens=64):
  """Runs both in turn; returns their figures, a list for each."""
  results = {'bare': [], 'session': []}
  for run in range(num_runs + 1):
    one = bare(model, tokenizer, prompts, tokens)
    other = through_session(model, tokenizer, prompts, tokens)
    # The first pair warms up.
    if run:
      results['bare'].append(one)
      results['session'].append(other)
  return results


def _print(results):
  for way, runs in results.items():
    for name in runs[0]:
      values = [run[name] for run in runs]
      print(
          f'{way:8} {name:16} median {statistics.median(values):.3f}, '
          f'{min(values):.3f} to {max(values):.3f}')
  for name in results['bare'][0]:
    ratios = [
        other[name] / one[name]
        for one, other in zip(results['bare'], results['session'])
    ]
    print(
        f'session / bare {name}: median {statistics.median(ratios):.3f}, '
        f'{min(ratios):.3f} to {max(ratios):.3f}')


if __name__ == '__main__':
  logging.basicConfig()
  parser = argparse.ArgumentParser()
  parser.add_argument('--model', required=True, help='a folder, or a name')
  parser.add_argument('--num_runs', type=int, default=5)
  parser.add_argument('--prompts', type=int, default=16)
  parser.add_argument('--tokens', type=int, default=64)
  options = parser.parse_args()
  print(
      f'{platform.machine()}, {os.cpu_count()} cores, '
      f'torch {torch.__version__}, transformers {transformers.__version__}, '
      f'{options.prompts} prompts of {options.tokens} tokens, seconds')
  handler = HuggingFaceGenerationModelHandler(options.model)
  _print(
      run_benchmark(
          *handler.load(), options.num_runs, options.prompts, options.tokens))
