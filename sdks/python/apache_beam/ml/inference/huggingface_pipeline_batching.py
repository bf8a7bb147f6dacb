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

"""Checks for passing the batch size to Hugging Face pipelines.

A pipeline runs its model once per input unless it is called with a batch size.
With one it pads the inputs of a batch, which not every pipeline can do.
"""

# pytype: skip-file

from collections.abc import Mapping
from typing import Any

_FEATURE_EXTRACTION = 'feature-extraction'


def validate_pipeline_batching(
    handler: str, task: str, load_pipeline_args: Mapping[str, Any]):
  """Checks what is known when a handler with use_pipeline_batching is built.

  Raises:
    ValueError: if `load_pipeline_args` sets a batch size as well, or the task
      returns padded positions.
  """
  _refuse_batch_size(handler, 'load_pipeline_args', load_pipeline_args)
  _refuse_feature_extraction(handler, task)


def validate_batching_inference_args(
    handler: str, inference_args: Mapping[str, Any] | None):
  """Raises a ValueError if `inference_args` sets a batch size as well."""
  # Those of a side input are not known before the call.
  if isinstance(inference_args, Mapping):
    _refuse_batch_size(handler, 'inference_args', inference_args)


def validate_batching_pipeline(handler: str, pipeline):
  """Checks that a loaded pipeline can pad its inputs without changing results.

  Raises:
    ValueError: if its task returns padded positions, its tokenizer has no
      pad token, or it generates text and pads on the right.
  """
  _refuse_feature_extraction(handler, pipeline.task)
  tokenizer = getattr(pipeline, 'tokenizer', None)
  if tokenizer is None:
    return
  if tokenizer.pad_token_id is None:
    raise ValueError(
        f'{handler}: use_pipeline_batching pads the inputs of a batch, but the '
        'tokenizer of the pipeline has no pad token. Set its pad_token, for '
        'instance to its eos_token, and pass it in '
        "load_pipeline_args={'tokenizer': tokenizer}.")
  if pipeline.task == 'text-generation' and tokenizer.padding_side != 'left':
    raise ValueError(
        f'{handler}: use_pipeline_batching needs padding on the left for '
        'text-generation, as padding on the right would come between prompt '
        "and continuation. Set the tokenizer's padding_side to 'left' and pass "
        "it in load_pipeline_args={'tokenizer': tokenizer}.")


def _refuse_batch_size(handler, parameter, args):
  if 'batch_size' in args:
    raise ValueError(
        f"{handler}: {parameter} has 'batch_size', which use_pipeline_batching "
        'sets for each batch. Remove one of them; max_batch_size limits the '
        'batches.')


def _refuse_feature_extraction(handler, task):
  # transformers returns the hidden states of the padding too, so that the
  # result for an input would depend on the longest one in its batch.
  if task == _FEATURE_EXTRACTION:
    raise ValueError(
        f'{handler}: use_pipeline_batching cannot be used for '
        f'{_FEATURE_EXTRACTION}, whose results would include the padding. Use '
        'HuggingFaceModelHandlerKeyedTensor with '
        "padding=PaddingOptions(mask='attention_mask').")
