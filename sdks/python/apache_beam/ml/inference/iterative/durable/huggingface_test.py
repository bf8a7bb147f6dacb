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

"""A real model whose text goes on in another process, wherever it stopped."""

import unittest

from apache_beam.ml.inference.iterative.durable.resume_test import Worker
from apache_beam.ml.inference.iterative.durable.resume_test import in_another_process

try:
  import torch

  from apache_beam.ml.inference.huggingface_generation import HuggingFaceGenerationModelHandler
  from apache_beam.testing.inference.models import smollm2
except ImportError:
  raise unittest.SkipTest('PyTorch or transformers is missing.')

_SMOLLM2 = smollm2()
# Not __name__: that may be __main__.
_MODULE = 'apache_beam.ml.inference.iterative.durable.huggingface_test'


def worker() -> Worker:
  # Greedy, float32 and one text at a time: only so are texts equal.
  handler = HuggingFaceGenerationModelHandler(
      _SMOLLM2, dtype=torch.float32, num_blocks=2)
  return Worker(handler, 'Parrots 🦜 are birds that', {'max_new_tokens': 16})


class DurableHuggingFaceTest(unittest.TestCase):
  @classmethod
  def setUpClass(cls):
    process = worker()
    cls.restrictions, cls.chunks = process.from_the_start()
    process.close()
    cls.whole = [[c.index, c.text, list(c.token_ids), c.finish_reason]
                 for c in cls.chunks]

  def check(self, index, rest):
    """That what is made elsewhere ends the text as it ended here."""
    for part in (1, 2):
      # How tokens are cut into chunks depends on the time.
      expected, made = (
          [piece for row in rows for piece in row[part]]
          for rows in (self.whole[index:], rest))
      self.assertEqual(made, expected)
    self.assertEqual([row[0] for row in rest],
                     list(range(index, index + len(rest))))
    self.assertEqual([row[-1] for row in rest],
                     [None] * (len(rest) - 1) + [self.whole[-1][-1]])

  def test_at_each_index_in_one_process(self):
    self.assertGreaterEqual(len(self.chunks), 4)
    resumed = in_another_process(_MODULE, self.restrictions)
    self.assertEqual(len(resumed), len(self.restrictions))
    for index, rest in enumerate(resumed):
      self.check(index, rest)

  def test_in_processes_of_their_own(self):
    for index in (1, len(self.chunks) // 2, len(self.chunks) - 1):
      rest, = in_another_process(_MODULE, [self.restrictions[index]])
      self.check(index, rest)


if __name__ == '__main__':
  unittest.main()
