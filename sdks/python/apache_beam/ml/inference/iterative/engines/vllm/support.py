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

"""Sessions on the server that a vLLM handler starts."""

import uuid
from collections.abc import Mapping
from typing import Any

from apache_beam.ml.inference.iterative.engines.openai import arguments as openai_arguments
from apache_beam.ml.inference.iterative.engines.vllm import arguments as vllm_arguments
from apache_beam.ml.inference.iterative.handler import SupportsSessions
from apache_beam.ml.inference.iterative.session import Session
from apache_beam.utils import multi_process_shared


class VLLMSessions(SupportsSessions):
  """What the vLLM handlers add to be iterative.

  The processes of a machine share one server, as without sessions. It is
  stopped when the last of their sessions is closed, and started again if it
  dies; what it was generating is then gone on from.

  inference_args are those of OpenAICompletionsModelHandler and
  OpenAIChatModelHandler; sampling parameters that only vLLM has, such as top_k
  and min_p, go into its extra_body.
  """

  _endpoint = 'completions'

  def _init_sessions(self) -> None:
    # The same in all processes that get the handler.
    self._server_tag = f'vllm-{uuid.uuid4().hex}'

  def open_session(self) -> Session:
    # Here, since httpx may be missing where the pipeline is built.
    from apache_beam.ml.inference.iterative.engines.vllm.session import VLLMSession
    shared = multi_process_shared.MultiProcessShared(
        self.load_model, tag=self._server_tag, always_proxy=True)
    return VLLMSession(shared, self._model_name, self._endpoint)

  def prompt_of(self, example: Any) -> Any:
    if self._endpoint == 'chat' and isinstance(example, (list, tuple)):
      example = [{
          'role': message.role, 'content': message.content
      } if hasattr(message, 'role') else message for message in example]
    openai_arguments.check_prompt(self._endpoint, example)
    return example

  def check_session_args(self, inference_args: Mapping[str, Any]) -> None:
    vllm_arguments.check_args(self._endpoint, inference_args)

  def session_model_id(self) -> str:
    return self._model_name
