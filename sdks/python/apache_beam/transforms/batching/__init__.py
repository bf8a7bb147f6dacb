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

"""Batches of similar length, with ``--experiments=smart_bucketing``.

An element's way to its batch: ``util.BatchElements`` asks ``opt_in`` whether
the flag is on and calls ``by_length``. In a bundle, ``in_bundle`` buffers
elements, sorts them by length and cuts them into batches. Across bundles,
``groups`` keys the elements of a bundle, ``stateful`` holds them in state
(``buffer_state``) with timers, and ``waiter`` says which to flush when.
``policy`` decides what goes together, from values alone: nothing in it imports
Beam. ``advisor`` runs the same policies on recorded lengths. ``metrics`` says
what was saved, and ``report`` draws it.

Modules and names that are not listed here are internal.
"""

from apache_beam.transforms.batching.metrics import metrics_table
from apache_beam.transforms.batching.options import BatchingOptions
from apache_beam.transforms.batching.report.write import metrics_report

__all__ = ['BatchingOptions', 'metrics_report', 'metrics_table']
