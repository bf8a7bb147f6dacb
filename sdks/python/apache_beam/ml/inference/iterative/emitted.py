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

"""What an earlier job emitted for an input, so that a new one goes on there."""

import dataclasses
from collections.abc import Iterable

from apache_beam.ml.inference.iterative.chunk import Chunk
from apache_beam.ml.inference.iterative.ordering import join
from apache_beam.ml.inference.iterative.session import Transcript


@dataclasses.dataclass(frozen=True)
class Emitted:
  """The first chunks of an input, which an earlier job has emitted.

  Attributes:
    transcript: their text and tokens.
    chunks: the number of these chunks, which have the indices 0 to chunks - 1.
    is_finished: whether the last chunk of the input is among them.
  """
  transcript: Transcript = Transcript()
  chunks: int = 0
  is_finished: bool = False

  @classmethod
  def of(cls, chunks: Iterable[Chunk]) -> 'Emitted':
    """Reads the chunks that a sink has kept, in any order, with repetitions.

    Chunks after a gap are left out, and their text is generated again. Drop
    them from the sink, as the new job cuts the text into other chunks, and give
    only the first ``chunks`` of a text to folds.

    Raises:
      ValueError: if two chunks with the same index differ.
    """
    by_index = {}
    for chunk in chunks:
      if by_index.setdefault(chunk.index, chunk) != chunk:
        raise ValueError(
            f'request {chunk.request_id!r}: there are two chunks '
            f'{chunk.index}, and they differ. Let request_id_fn give each '
            'input an id of its own, and keep chunks of one job per file.')
    kept = []
    while len(kept) in by_index:
      kept.append(by_index[len(kept)])
    if not kept:
      return cls()
    whole = join(kept)
    # Engines that name no token ids count pieces of text; how many they were
    # matters for limits of length alone.
    tokens = len(whole.token_ids) or len(kept)
    if whole.usage is not None and whole.usage.completion_tokens is not None:
      tokens = whole.usage.completion_tokens
    return cls(
        Transcript(whole.text, whole.token_ids, tokens),
        len(kept),
        whole.is_last)
