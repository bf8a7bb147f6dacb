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

"""A microbenchmark for the hot loop of BatchElements.

Takes the processor time of a DoFn per element, without a runner and with a
consumer that does nothing: in the global window, without and with
element_size_fn, in fixed windows, and grouped by length, where this release
can. The lengths are drawn from a file, or else heavy-tailed, as those of
prompts are.

Run as
  python -m apache_beam.tools.batch_elements_microbenchmark [--lengths FILE]
"""

# pytype: skip-file

import argparse
import gc
import logging
import random
import statistics
import time

from apache_beam.tools import utils
from apache_beam.transforms import util
from apache_beam.transforms import window

_BATCH_SIZE = 32

# Lengths to draw from.
_drawn = []


def _lengths(size, seed=0):
  rng = random.Random(seed)
  if _drawn:
    return rng.choices(_drawn, k=size)
  # Log-normal, median 150 and 99th percentile 2,500.
  return [1 + int(rng.lognormvariate(5, 1.2)) for _ in range(size)]


def _estimator():
  return util._BatchSizeEstimator(_BATCH_SIZE, _BATCH_SIZE)


def _count_one(unused_element):
  return 1


def _length(element):
  return element


def _checked(fn, name):
  """A user's function as BatchElements calls it in this release."""
  if not hasattr(util, 'user_functions'):
    return fn
  return util.user_functions.checked(fn, name, 'BatchElements')


def _size_fn():
  # Ones, so that batches are those without sizes.
  return _checked(lambda element: 1, 'element_size_fn')


def _run(do_fn, elements, *window_param):
  """Runs one bundle; returns how many elements its batches hold."""
  do_fn.start_bundle()
  count = 0
  for element in elements:
    for batch in do_fn.process(element, *window_param) or ():
      count += len(batch.value)
  return count + sum(len(batch.value) for batch in do_fn.finish_bundle())


def global_window(size):
  do_fn = util._GlobalWindowsBatchingDoFn(_estimator(), _count_one)
  elements = _lengths(size)
  return lambda: _run(do_fn, elements)


def fixed_window(size):
  do_fn = util._WindowAwareBatchingDoFn(_estimator(), _count_one)
  elements = _lengths(size)
  return lambda: _run(do_fn, elements, window.IntervalWindow(0, 1))


def global_window_with_sizes(size):
  do_fn = util._GlobalWindowsBatchingDoFn(_estimator(), _size_fn())
  elements = _lengths(size)
  return lambda: _run(do_fn, elements)


def by_length(size):
  from apache_beam.transforms.batching import in_bundle
  do_fn = in_bundle.LengthBatchingDoFn(
      _checked(_length, 'length_fn'), [(None, _BATCH_SIZE)])
  do_fn.setup()
  elements = _lengths(size)
  return lambda: _run(do_fn, elements, window.GlobalWindow())


def run_benchmark(num_runs=20, num_elements=100_000, verbose=True):
  """Runs the suite; returns processor seconds of each run by benchmark.

  Elapsed time, which utils.run_benchmarks takes, is several times as much where
  other work shares the processors.
  """
  benchmarks = [global_window, global_window_with_sizes, fixed_window]
  if hasattr(util, 'by_length'):
    benchmarks.append(by_length)
  costs = {
      benchmark.__name__: [
          _processor_seconds(benchmark(num_elements)) for _ in range(num_runs)
      ]
      for benchmark in benchmarks
  }
  for name, runs in costs.items() if verbose else ():
    low, median, high = (
        value / num_elements
        for value in (min(runs), statistics.median(runs), max(runs)))
    print(
        f'{name}, {num_elements} elements: p. element median time cost: '
        f'{median:g} sec, from {low:g} to {high:g}')
  return costs


def _processor_seconds(run):
  # So that no run collects the garbage of another.
  gc.collect()
  start = time.process_time()
  run()
  return time.process_time() - start


if __name__ == '__main__':
  logging.basicConfig()
  utils.check_compiled('apache_beam.utils.windowed_value')
  parser = argparse.ArgumentParser()
  parser.add_argument('--num_runs', type=int, default=20)
  parser.add_argument('--num_elements', type=int, default=100_000)
  parser.add_argument('--lengths', help='a file with a length in each line')
  args = parser.parse_args()
  if args.lengths:
    with open(args.lengths, encoding='utf-8') as file:
      _drawn += map(int, file)
  run_benchmark(args.num_runs, args.num_elements)
