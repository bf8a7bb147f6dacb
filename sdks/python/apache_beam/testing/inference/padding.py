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

"""What the tests of padding have in common."""

# pytype: skip-file

import torch

from apache_beam.ml.inference.padding import PaddingOptions
from apache_beam.ml.inference.padding import padded
from apache_beam.ml.inference.pytorch_inference import default_keyed_tensor_inference_fn
from apache_beam.ml.inference.pytorch_inference import default_tensor_inference_fn

CPU = torch.device('cpu')


def tensors(*lengths, **kwargs):
  return [torch.arange(1, n + 1, **kwargs) for n in lengths]


class Recorder(torch.nn.Module):
  """Keeps its arguments; gives the sum of x, or what `outputs` makes of it."""
  def __init__(self, outputs=lambda x: x.sum(1)):
    super().__init__()
    self.calls = []
    self.outputs = outputs

  def forward(self, x, **kwargs):
    self.calls.append({'x': x, **kwargs})
    return self.outputs(x)


def run(batch, model, args=None, verify=False, **options):
  options['verify'] = verify
  fn = padded(default_tensor_inference_fn, PaddingOptions(**options), 'Handler')
  return fn(batch, model, CPU, args or {}, 'id')


def run_keyed(batch, model, args=None, verify=False, **options):
  options['verify'] = verify
  fn = padded(
      default_keyed_tensor_inference_fn,
      PaddingOptions(**options),
      'Handler',
      keyed=True)
  return fn(batch, model, CPU, args or {}, 'id')


def shapes(results):
  return [tuple(r.inference.shape) for r in results]
