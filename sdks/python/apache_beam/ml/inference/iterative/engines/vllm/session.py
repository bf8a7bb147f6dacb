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

"""A session on a vLLM server that this machine's processes share."""

from apache_beam.ml.inference.iterative.engines.openai.backoff import Backoff
from apache_beam.ml.inference.iterative.engines.openai.protocol import CallFailed
from apache_beam.ml.inference.iterative.engines.openai.session import OpenAISession
from apache_beam.utils.multi_process_shared import MultiProcessShared


class VLLMSession(OpenAISession):
  """Holds the server as long as it is open.

  A server that cannot be reached any more ends the session: what it was
  generating is lost, and the next session starts the server again.

  Args:
    shared: of a _VLLMModelServer.
    model, endpoint: as in OpenAISession.
  """
  def __init__(self, shared: MultiProcessShared, model: str, endpoint: str):
    self._shared = shared
    self._server = shared.acquire()
    self._is_gone = False
    try:
      # Starts it if it has died since.
      self._server.check_connectivity()
      super().__init__(
          f'http://localhost:{self._server.get_server_port()}/v1',
          model,
          endpoint,
          # Found, since Dynamo's frontend is none of vLLM's own.
          resumes=None,
          backoff=Backoff(max_retries=2))
    except BaseException:
      self._release()
      raise

  @property
  def is_alive(self):
    return super().is_alive and not self._is_gone

  def close(self):
    super().close()
    self._release()

  def _release(self):
    """Once: a session that does not open may have been closed already."""
    server, self._server = self._server, None
    if server is not None:
      self._shared.release(server)

  def _is_lost(self, failure: CallFailed) -> bool:
    if failure.kind == 'connection':
      self._is_gone = True
    return failure.kind == 'connection'
