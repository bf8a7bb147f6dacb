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

"""What RunInference builds for iterative inference."""

import dataclasses
import inspect

import apache_beam as beam
from apache_beam.ml.inference import base
from apache_beam.ml.inference import batching_by_length
from apache_beam.ml.inference import lengths
from apache_beam.ml.inference.iterative.chunk_coder import chunk_type
from apache_beam.ml.inference.iterative.dead_letters import FAILED
from apache_beam.ml.inference.iterative.dead_letters import DeadLetters
from apache_beam.ml.inference.iterative.durable.do_fn import DurableDoFn
from apache_beam.ml.inference.iterative.durable.runners import check_runner
from apache_beam.ml.inference.iterative.handler import SupportsSessions
from apache_beam.ml.inference.iterative.in_bundle import InBundleDoFn
from apache_beam.ml.inference.iterative.inputs import Inputs
from apache_beam.ml.inference.iterative.registry import session_key
from apache_beam.options.pipeline_options import DebugOptions
from apache_beam.options.pipeline_options import StandardOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.direct.direct_runner import SwitchingDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.batching.arguments import check_known_arguments
from apache_beam.typehints import typehints

EXPERIMENT = 'iterative_inference'


def expand(transform: 'base.RunInference', pcoll: beam.PCollection):
  """The chunks of a pcoll's elements, as RunInference.expand returns them.

  Raises:
    ValueError: if something was asked for that cannot be had.
  """
  inner = _check(transform, pcoll)
  namespace = transform._metrics_namespace or inner.get_metrics_namespace()
  pcoll, bad_preprocessed = transform._apply_fns(
      pcoll,
      transform._model_handler.get_preprocess_fns(),
      'BeamML_RunInference_Preprocess')
  is_durable = transform._iterative.mode == 'durable'
  length_fn = None
  if inner.pads_batches():
    length_fn = batching_by_length.length_fn_of(
        transform, pcoll, waits=not is_durable)
  inputs = Inputs(
      inner,
      _keyed(transform._model_handler),
      transform._inference_args or {},
      # Within a bundle batches are formed before.
      length_fn if is_durable else None)
  output_type = _output_type(inputs, pcoll.element_type)
  dead_letters = None
  if transform._with_exception_handling:
    dead_letters = DeadLetters(transform._exc_class)
  options = _options(transform, pcoll.pipeline)
  key = session_key(pcoll.pipeline, transform._model_tag)
  args = (inputs, options, key, namespace)
  bad_lengths = None
  if is_durable:
    do_fn = DurableDoFn(*args, dead_letters=dead_letters)
  else:
    batched = inner.pads_batches()
    do_fn = InBundleDoFn(
        *args,
        batched=batched,
        by_length=length_fn is not None,
        dead_letters=dead_letters)
    if batched:
      pcoll, bad_lengths = batching_by_length.batch_by(
          transform, pcoll, length_fn)
  results = (
      pcoll
      | 'BeamML_RunInference' >> beam.ParDo(do_fn).with_resource_hints(
          **inner.get_resource_hints()).with_outputs(FAILED, main='chunks'))
  results.chunks.element_type = output_type
  if not dead_letters:
    return results.chunks
  failed = results[FAILED]
  if bad_lengths is not None:
    failed = (failed, bad_lengths) | beam.Flatten()
  return results.chunks, base.RunInferenceDLQ(failed, bad_preprocessed, [])


def _check(transform, pcoll):
  """Refuses what would have no effect, or not the one that is meant."""
  label, handler = transform.label, transform._model_handler
  is_durable = transform._iterative.mode == 'durable'
  debug_options = pcoll.pipeline.options.view_as(DebugOptions)
  if debug_options.lookup_experiment(EXPERIMENT) is not True:
    raise ValueError(
        f'{label}: iterative needs --experiments={EXPERIMENT}. Start the '
        'pipeline with it, or leave iterative out.')
  check_known_arguments(
      label,
      transform._kwargs,
      inspect.signature(base.RunInference.__init__).parameters)
  inner = lengths.innermost(handler)
  if isinstance(inner, base._PrebatchedModelHandler):
    raise ValueError(
        f'{label}: iterative takes single inputs, and the model handler takes '
        'batches. Leave with_no_batching out.')
  if isinstance(inner, base.KeyedModelHandler):
    raise ValueError(
        f'{label}: iterative takes one model, and the KeyedModelHandler has '
        'several. Part the inputs with beam.Partition, and give each part a '
        'RunInference of its own.')
  if not isinstance(inner, SupportsSessions):
    raise ValueError(
        f'{label}: {type(inner).__name__} makes whole results only. Iterative '
        'inference works with HuggingFaceGenerationModelHandler, '
        'OpenAICompletionsModelHandler, OpenAIChatModelHandler, the VLLM '
        'handlers, and with a generator function of yours in a '
        'GeneratorModelHandler.')
  try:
    inner.check_session_args(transform._inference_args or {})
  except (TypeError, ValueError) as e:
    raise type(e)(f'{label}: {e}') from None
  refused = {
      'a postprocessing function': bool(handler.get_postprocess_fns()),
      'monitoring_transform': transform._monitoring_transform is not None,
      'model_metadata_pcoll': transform._model_metadata_pcoll is not None,
      'watch_model_pattern': bool(transform._watch_model_pattern),
      'use_model_manager': transform._use_model_manager,
  }
  if transform._with_exception_handling:
    refused['with_exception_handling(use_subprocess)'] = (
        transform._use_subprocess)
    refused['with_exception_handling(threshold)'] = transform._threshold != 1
    refused['with_exception_handling(timeout)'] = is_durable and bool(
        transform._timeout)
  for name, is_given in refused.items():
    if is_given:
      raise ValueError(f'{label}: {name} {_WHY.get(name, _NOT_WITH_CHUNKS)}')
  if transform._batching_options is not None and (is_durable or
                                                  not inner.pads_batches()):
    why = (
        "inputs are not batched with mode='durable'"
        if is_durable else f'{type(inner).__name__} does not pad its batches')
    raise ValueError(
        f'{label}: batching_options have no effect, because {why}. Leave them '
        'out.')
  if is_durable:
    check_runner(label, pcoll.pipeline.runner, pcoll.pipeline.options)
  return inner


_NOT_WITH_CHUNKS = 'cannot be had with iterative. Leave it out.'
_WHOLE_RESULTS = (
    'is written for whole results, and iterative emits chunks. Apply it to the '
    'output of FoldToPredictionResult.')
_WHY = {
    'a postprocessing function': _WHOLE_RESULTS,
    'monitoring_transform': _WHOLE_RESULTS,
    'with_exception_handling(timeout)': (
        'would be that of a call which returns at once. Use '
        'IterativeOptions(request_timeout_secs=...).'),
}


def _keyed(handler):
  """Whether elements have keys; None if each element tells."""
  wrappers = (base._PreProcessingModelHandler, base._PostProcessingModelHandler)
  while isinstance(handler, wrappers):
    handler = handler._base
  if isinstance(handler, base.MaybeKeyedModelHandler):
    return None
  return isinstance(handler, base.KeyedModelHandler)


def _output_type(inputs, element_type):
  if inputs.keyed is False:
    return chunk_type(element_type)
  types = getattr(element_type, 'tuple_types', None)
  if types and len(types) == 2:
    return typehints.Tuple[types[0], chunk_type(types[1])]
  return typehints.Any


_IN_PROCESS = (FnApiRunner, SwitchingDirectRunner, BundleBasedDirectRunner)


def _options(transform, pipeline):
  options = transform._iterative
  timeout = transform._with_exception_handling and transform._timeout
  if timeout and options.request_timeout_secs is None:
    options = dataclasses.replace(options, request_timeout_secs=timeout)
  is_streaming = pipeline.options.view_as(StandardOptions).streaming
  if isinstance(pipeline.runner, _IN_PROCESS) and not is_streaming:
    # What is bounded is never idle, and its process may live on without it.
    options = dataclasses.replace(options, session_idle_secs=0.0)
  return options
