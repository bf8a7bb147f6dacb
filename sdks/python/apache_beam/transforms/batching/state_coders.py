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

"""The coders of a stateful buffer."""

from typing import Any

from apache_beam import coders
from apache_beam.pvalue import PCollection

# Coders registered for the elements' type are used from this release on.
BREAKING_CHANGE_VERSION = '2.78.0'


def is_old(pcoll: PCollection) -> bool:
  """Whether the pipeline keeps the state of an earlier release."""
  options = pcoll.pipeline.options
  return options.is_compat_version_prior_to(BREAKING_CHANGE_VERSION)


def element_and_count_coders(
    pcoll: PCollection, element_type: Any) -> tuple[coders.Coder, coders.Coder]:
  """Chooses the coders of buffered elements and of their number.

  They define the encoding of state, so a pipeline that is updated from an
  earlier release keeps that one's, the fallback coder for everything.

  Args:
    pcoll: the input of the transform.
    element_type: the type of what is buffered.
  """
  if is_old(pcoll):
    fallback = coders.registry.get_coder(pcoll)
    return fallback, fallback
  return coders.registry.get_coder(element_type), coders.VarIntCoder()
