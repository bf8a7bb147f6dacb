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

"""Embeds texts with a pipeline of the patched SDK, without and with the flag.

    build/venv/bin/python -P beam.py TEXTS MODEL OUT WAY

Without the flag batches are those of Beam 2.77. The export is at MODEL.onnx.
"""

import json
import sys
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

import apache_beam as beam
from apache_beam.examples.inference import bucketed_text_embeddings as example
from apache_beam.ml.inference.base import RunInference
from apache_beam.ml.inference.huggingface_inference import HuggingFaceModelHandlerKeyedTensor
from apache_beam.ml.inference.onnx_inference import OnnxModelHandlerNumpy
from apache_beam.ml.transforms.base import MLTransform
from apache_beam.ml.transforms.embeddings.huggingface import SentenceTransformerEmbeddings
from apache_beam.ml.transforms.embeddings.huggingface import _SentenceTransformerModelHandler
from apache_beam.options.pipeline_options import PipelineOptions

_BATCH_SIZE = 32
_MAX_TOKENS = 256
_FLAG = '--experiments=smart_bucketing'


def of_texts(records, folder, artifacts):
  """Embeds by MLTransform."""
  transform = MLTransform(write_artifact_location=artifacts).with_transform(
      SentenceTransformerEmbeddings(
          model_name=folder, columns=['text'], max_batch_size=_BATCH_SIZE))
  return records | transform | beam.Map(lambda row: (row['id'], row['text']))


def of_tensors(records, folder, unused_artifacts):
  """Embeds as the example does, with the PyTorch model."""
  return _by_example(
      records,
      example.make_model_handler(folder, _BATCH_SIZE, max_tokens=_MAX_TOKENS))


def of_arrays(records, folder, unused_artifacts):
  """Embeds as the example does, with ONNX Runtime."""
  return _by_example(
      records,
      example.make_model_handler(
          folder,
          _BATCH_SIZE,
          f'{folder}.onnx',
          _MAX_TOKENS,
          providers=['CPUExecutionProvider']))


def _by_example(records, handler):
  return (
      records | RunInference(handler)
      | beam.Map(lambda row: (row['id'], row['embedding'])))


class Save(beam.DoFn):
  """Writes each bundle to a file of its own.

  A list of all of them would be a side input, which Beam's cache weighs float by
  float.
  """
  def __init__(self, folder):
    self._folder = folder

  def start_bundle(self):
    self._rows = []

  def process(self, row):
    self._rows.append(row)

  def finish_bundle(self):
    if self._rows:
      keys, values = zip(*self._rows)
      np.savez(
          f'{self._folder}/{uuid.uuid4().hex}.npz',
          keys=keys,
          values=np.array(values, 'f4'))


# What embeds, the class of its model handler, and flags.
_WAYS = {
    'beam_2_77': (of_texts, _SentenceTransformerModelHandler, []),
    'smart_mltransform': (of_texts, _SentenceTransformerModelHandler, [_FLAG]),
    'smart_tensors': (of_tensors, HuggingFaceModelHandlerKeyedTensor, [_FLAG]),
    'smart_onnx': (of_arrays, OnnxModelHandlerNumpy, [_FLAG]),
}


def watch(handler):
  """Collects the batches of model handlers, and the seconds of their loads.

  The worker of FnApiRunner is this process, so it sees this class.
  """
  batches, loads = [], []
  load_model, run_inference = handler.load_model, handler.run_inference

  def timed(self):
    start = time.perf_counter()
    model = load_model(self)
    loads.append(time.perf_counter() - start)
    return model

  def kept(self, batch, *args, **kwargs):
    batches.append(batch)
    return run_inference(self, batch, *args, **kwargs)

  handler.load_model, handler.run_inference = timed, kept
  return batches, loads


def padding_ratio(batches, folder):
  tokenizer = AutoTokenizer.from_pretrained(folder)

  def length(example):
    if isinstance(example, str):
      example = tokenizer(example, truncation=True, max_length=_MAX_TOKENS)
    return len(example['input_ids'])

  lengths = [[length(example) for example in batch] for batch in batches]
  return sum(max(some) * len(some) for some in lengths) / sum(map(sum, lengths))


def in_order(folder):
  """The embeddings that were saved, by their ids."""
  files = [np.load(path) for path in Path(folder).glob('*.npz')]
  keys = np.concatenate([file['keys'] for file in files])
  return np.concatenate([file['values'] for file in files])[np.argsort(keys)]


def main(texts_file, folder, out, way):
  with open(texts_file, encoding='utf-8') as file:
    records = [json.loads(line) for line in file]
  embed, handler, flags = _WAYS[way]
  batches, loads = watch(handler)
  with tempfile.TemporaryDirectory() as artifacts, \
      tempfile.TemporaryDirectory() as saved:
    start = time.perf_counter()
    with beam.Pipeline(
        options=PipelineOptions(['--runner=FnApiRunner', *flags])) as p:
      _ = (
          embed(p | beam.Create(records), folder, artifacts)
          | beam.ParDo(Save(saved)))
    seconds = time.perf_counter() - start - sum(loads)
    np.save(f'{out}.npy', in_order(saved))
  Path(f'{out}.json').write_text(
      json.dumps({
          'texts_per_second': len(records) / seconds,
          'padding_ratio': padding_ratio(batches, folder)
      }))


if __name__ == '__main__':
  main(*sys.argv[1:])
