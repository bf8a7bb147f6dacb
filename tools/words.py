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

"""Words that a reader who knows Beam would stumble over, and what to write.

Documents and the texts of pull requests are held against them, and the source of the
series against those that mean nothing else.
"""

import re

from tools.layout import Layout
from tools.series import pull_request

# Lower case only, so that names of classes pass. These mean nothing else, so the
# source is held against them too.
ANYWHERE = {
    r'tickets?': 'entry',
    r'hurry': 'nothing: the parameter is gone',
    r'dear(?:er|est)?': 'expensive, costs more',
    r'paces?': 'schedule, speed',
    r'behind (?:a|an|the|its) (?:re)?shuffle': 'after a shuffle, downstream',
    r'behind a Reshuffle': 'after a Reshuffle, downstream',
    r'nothing to see by itself': 'what changes for a user, or no line',
    r'who(?:ever)? waits': 'pending elements, pending requests',
}
# And these in prose.
PRIVATE = ANYWHERE | {
    r'(?:waiting )?rooms?': 'buffer',
    r'cheap(?:er|est|ly)?': 'inexpensive, costs less',
    r'doubled': 'duplicated',
    r'(?<!in[ -])flights?': 'in-flight request',
    r'texts in flight': 'in-flight requests',
    r'(?:is|are|was|were) told': 'says, supports, receives',
    r'(?:is|are) had': 'says who has it',
    r'(?:is|are) made of': 'consists of',
    r'(?:longest|largest) so far': 'maximum, running maximum',
    r'(?:comes?|came) back': 'resumes, is polled',
    r'lets? in': 'adds',
}


def _compiled(words):
  return {re.compile(rf'\b{word}\b'): word for word in words}


_ANY = _compiled(PRIVATE)
_SOURCE = _compiled(ANYWHERE)


def problems(layout: Layout) -> list[str]:
  """A line for each private word, with its place and what to write."""
  found = []
  for path in [*sorted(layout.root.glob('*.md')),
               *sorted((layout.root / 'design').glob('*.md')),
               *sorted((layout.root / 'docs').rglob('*.md')),
               *sorted((layout.root / 'docs').rglob('*.ipynb')),
               *sorted(layout.patches.glob('*/README.md'))]:
    name = path.relative_to(layout.root).as_posix()
    found += of_text(name, path.read_text(encoding='utf-8'))
  for pr in pull_request.read_series(layout):
    found += of_text(pr.name, f'{pr.subject}\n{pr.prose}')
  for path in sorted((layout.root / 'sdks').rglob('*.py')):
    name = path.relative_to(layout.root).as_posix()
    found += of_text(name, path.read_text(encoding='utf-8'), _SOURCE)
  return found


def of_text(name: str, text: str, words=None) -> list[str]:
  found = []
  for number, line in enumerate(text.replace('`', '').splitlines(), 1):
    for pattern, word in (words or _ANY).items():
      match = pattern.search(line)
      if match:
        found.append(
            f'{name}:{number}: "{match.group()}"; write: {PRIVATE[word]}.')
  return found
