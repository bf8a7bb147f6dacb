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

"""Where things lie: the folders of a checkout, and the cache."""

import dataclasses
import os
from pathlib import Path


class ToolError(Exception):
  """A failure that the user can mend; the message says how."""


@dataclasses.dataclass(frozen=True)
class Layout:
  """The folders that the tools read and write.

  Args:
    root: the checkout of this repository.
    beam: the git repository that `apply` makes; defaults to build/beam.
  """
  root: Path
  beam: Path = None

  def __post_init__(self):
    if self.beam is None:
      object.__setattr__(self, 'beam', self.root / 'build' / 'beam')

  @property
  def build(self) -> Path:
    return self.root / 'build'

  @property
  def patches(self) -> Path:
    return self.root / 'patches'

  @property
  def sdks(self) -> Path:
    return self.root / 'sdks'

  @property
  def pin(self) -> Path:
    return self.root / 'upstream.toml'

  @property
  def cache(self) -> Path:
    """Content-keyed: an entry is never changed, so clones can share it."""
    base = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(base) / 'beam-series'


def here() -> Layout:
  """The layout of the checkout that this file belongs to."""
  return Layout(Path(__file__).resolve().parents[1])
