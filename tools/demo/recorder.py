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

"""Records every model call of a run that stays in this process."""

import dataclasses
import time
from collections.abc import Callable

from transformers import AutoModel

from apache_beam.ml.inference import huggingface_inference
from apache_beam.ml.inference.onnx_inference import OnnxModelHandlerNumpy


@dataclasses.dataclass(frozen=True)
class Call:
  """One batch.

  Attributes:
    texts: its number of texts.
    real: the tokens of its texts.
    padded: the tokens that the model was given.
    seconds: how long the model took.
  """
  texts: int
  real: int
  padded: int
  seconds: float


# The worker of FnApiRunner imports this module too, so it is the same list.
CALLS: list[Call] = []
LOAD_SECONDS: list[float] = []
# Called with each Call.
LISTENERS: list[Callable[['Call'], None]] = []


def _record(call: Call) -> None:
  CALLS.append(call)
  for listener in LISTENERS:
    listener(call)


class TimedModel:
  """Loads a model as AutoModel does, timed."""
  @staticmethod
  def from_pretrained(*args, **kwargs):
    start = time.perf_counter()
    model = AutoModel.from_pretrained(*args, **kwargs)
    LOAD_SECONDS.append(time.perf_counter() - start)
    return model


def timed_inference(batch, model, device, inference_args, model_id=None):
  """The handler's own inference function, timed."""
  start = time.perf_counter()
  results = huggingface_inference._run_inference_torch_keyed_tensor(
      batch, model, device, inference_args, model_id)
  masks = [example['attention_mask'] for example in batch]
  _record(
      Call(
          texts=len(masks),
          real=int(sum(mask.sum() for mask in masks)),
          padded=sum(len(mask) for mask in masks),
          seconds=time.perf_counter() - start))
  return results


class TimedOnnxHandler(OnnxModelHandlerNumpy):
  """The handler of ONNX models, timed with its padding."""
  def load_model(self):
    start = time.perf_counter()
    session = super().load_model()
    LOAD_SECONDS.append(time.perf_counter() - start)
    return session

  def run_inference(self, batch, inference_session, inference_args=None):
    start = time.perf_counter()
    results = super().run_inference(batch, inference_session, inference_args)
    lengths = [len(example['input_ids']) for example in batch]
    _record(
        Call(
            texts=len(lengths),
            real=sum(lengths),
            padded=len(lengths) * max(lengths),
            seconds=time.perf_counter() - start))
    return results
