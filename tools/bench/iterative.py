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

"""When consumers see generated text, and what that costs beside the model.

The benchmarks of the series with tokens that come by the clock, on FnApiRunner
and, where it was built, on Prism; and with a server of vLLM, which shares the
cores with the pipeline.
"""

import contextlib
import io
import json
import logging

from apache_beam.testing.benchmarks import iterative_inference_benchmark
from apache_beam.testing.benchmarks import iterative_inference_overhead
from tools import smollm
from tools import vllm_env
from tools.layout import Layout
from tools.layout import ToolError

_PROMPTS = 200
_VLLM = ('--enforce-eager', '--max-model-len=1024', '--max-num-seqs=16')


def run(layout: Layout, pairs: int) -> dict:
  """The figures of both benchmarks, the first by runner."""
  logging.getLogger().setLevel(logging.ERROR)
  figures = {'runners': {}}
  for name, flags in _runners(layout).items():
    figures['runners'][name] = _call(
        iterative_inference_benchmark,
        '--handler=clock',
        f'--prompts={_PROMPTS}',
        *flags)
  figures['overhead'] = _call(
      iterative_inference_overhead, f'--pairs={pairs}', '--runner=FnApiRunner')
  return figures


def run_on_vllm(layout: Layout, rounds: int) -> dict:
  """The figures of the first, for SmolLM2 in bfloat16, on Prism if it is there.
  """
  logging.getLogger().setLevel(logging.ERROR)
  model = layout.build / 'models' / smollm.NAME
  *_, flags = _runners(layout).values()
  with vllm_env.server(layout, model, *_VLLM) as url:
    return _call(
        iterative_inference_benchmark,
        '--handler=openai',
        f'--url={url}',
        f'--model={model}',
        f'--rounds={rounds}',
        *flags)


def vllm_table(figures: dict) -> str:
  """Markdown: a line for each way, medians with their spread."""
  lines = [
      '| way | first token p50 | p95 | p50 after bare | p95 after bare | '
      'all done | to one-shot | missing | doubled |',
      '|' + '---|' * 9
  ]
  for way, counted in figures['counts'].items():
    cells = [f"{figures[way][key]:.2f} s" for key in ('ttft_p50', 'ttft_p95')]
    cells += [
        _spread(figures, way, 'ttft_p50_minus_bare'),
        _spread(figures, way, 'ttft_p95_minus_bare'),
        f"{figures[way]['total']:.2f} s",
        _spread(figures, way, 'total_over_one_shot'),
        str(counted['missing']),
        str(counted['doubled'])
    ]
    lines.append(f'| {way} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + (
      f"\n\nTexts equal to those of one-shot: {figures['texts_equal']:.2f}.")


def _spread(figures, way, key):
  least, most = figures['spread'][way][key]
  return f"{figures['against'][way][key]:.2f} ({least:.2f} to {most:.2f})"


def tables(figures: dict) -> str:
  """Markdown: a line for each runner and way, then one for each cost."""
  lines = [
      '| runner | way | first token p50 | p95 | last p50 | all done | '
      'of one-shot | chunks | missing | doubled |',
      '|' + '---|' * 10
  ]
  for runner, found in figures['runners'].items():
    for way, counted in found['counts'].items():
      times = [f'{seconds:.2f} s' for seconds in found[way].values()]
      ratio = found['against'][way]['total_over_one_shot']
      lines.append(
          f'| {runner} | {way} | ' + ' | '.join(times) +
          f" | {ratio:.2f} | {counted['chunks']} | {counted['missing']} | "
          f"{counted['doubled']} |")
  lines += ['', '| cost | median | spread |', '|---|---|---|']
  overhead = figures['overhead']
  for mode, spread in overhead['chunk_cpu_msec'].items():
    lines.append(_cost(f'CPU of a chunk, {mode}, ms', spread))
  lines.append(_cost('flag on, one-shot, ratio of CPU', overhead['flag_on']))
  sizes = overhead['chunk_bytes']
  lines.append(
      f"| bytes of a chunk without text and token ids | {sizes['mean']:.0f} "
      f"(mean) | up to {sizes['largest']} |")
  return '\n'.join(lines)


def _cost(name, spread):
  return (
      f"| {name} | {spread['median']:.2f} | {spread['least']:.2f} to "
      f"{spread['most']:.2f} |")


def _runners(layout):
  runners = {'FnApiRunner': ['--runner=FnApiRunner']}
  prism = layout.build / 'bin' / 'prism'
  if prism.exists():
    runners['Prism'] = ['--runner=PrismRunner', f'--prism_location={prism}']
  else:
    print('build/bin/prism is missing, so it is left out; install Go.')
  return runners


def _call(module, *args):
  out = io.StringIO()
  with contextlib.redirect_stdout(out):
    code = module.main(args)
  if code:
    raise ToolError(f'{module.__name__} ended with {code}.')
  return json.loads(out.getvalue())
