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

"""What a process has learned of a model: what batches cost, and what fits."""

import dataclasses
import threading
import weakref

from apache_beam.transforms.batching.policy.cost_model import CostModel
from apache_beam.transforms.batching.policy.memory_limit import MemoryLimit


@dataclasses.dataclass(eq=False)
class Learned:
  """Learned by all threads of a process together."""
  cost: CostModel = dataclasses.field(default_factory=CostModel)
  memory: MemoryLimit = dataclasses.field(default_factory=MemoryLimit)


_LEARNED: weakref.WeakValueDictionary[str, Learned] = (
    weakref.WeakValueDictionary())
_LOCK = threading.Lock()


def learned_of(model: str) -> Learned:
  """What is known of a model, the same for all who ask for it.

  It outlives bundles, windows and the setup of another DoFn. It goes when the
  last who asked for it does.

  Args:
    model: identifies it in this process.
  """
  with _LOCK:
    found = _LEARNED.get(model)
    if found is None:
      found = _LEARNED[model] = Learned()
    return found
