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

"""Tables for a terminal."""

from collections.abc import Sequence

from apache_beam.transforms.batching.figures import even_columns


def aligned(rows: Sequence[Sequence[str]]) -> str:
  """Rows of cells in even columns, the first row being the head."""
  rows = even_columns(rows)
  lines = ['  '.join(row).rstrip() for row in rows]
  lines.insert(1, '  '.join('-' * len(cell) for cell in rows[0]))
  return '\n'.join(lines)
