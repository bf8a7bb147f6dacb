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

"""RunInference with partial results: the path of a token from model to sink.

``RunInference(handler, iterative=IterativeOptions())`` calls ``run.expand``:

1. ``handler``: a model handler that opens a ``session.Session`` instead of
   running batches.
2. ``engines``: sessions for generator functions, for models of Hugging Face in
   the process, for OpenAI-compatible servers, for vLLM.
3. ``inputs``: an element becomes a ``session.Request``, with an id and what was
   emitted for it before.
4. ``registry``: the session of a model is opened once per process and shared.
5. ``in_flight_request``: one request from its submission to its end (polls,
   retries, timeouts), which yields a ``session.Delta`` for each token or piece.
6. ``result_stream``: deltas are joined to ``chunk.Chunk``s.
7. ``in_bundle`` emits chunks while the bundle runs.
8. ``durable`` emits each chunk in a bundle of its own, checkpointed with the
   request, so that a text resumes after a restart.
9. ``folds``: transforms that combine the chunks of an input.

Modules and names that are not listed here are internal.
"""

from apache_beam.ml.inference.iterative.chunk import Chunk
from apache_beam.ml.inference.iterative.chunk import Timings
from apache_beam.ml.inference.iterative.chunk import Usage
from apache_beam.ml.inference.iterative.emitted import Emitted
from apache_beam.ml.inference.iterative.engines.generator import GeneratorModelHandler
from apache_beam.ml.inference.iterative.folds.incomplete import Incomplete
from apache_beam.ml.inference.iterative.folds.rows import AsRows
from apache_beam.ml.inference.iterative.folds.rows import bigquery_schema
from apache_beam.ml.inference.iterative.folds.texts import PartialText
from apache_beam.ml.inference.iterative.folds.texts import Sentence
from apache_beam.ml.inference.iterative.folds.transforms import FinalsOnly
from apache_beam.ml.inference.iterative.folds.transforms import FoldToPredictionResult
from apache_beam.ml.inference.iterative.folds.transforms import Sentences
from apache_beam.ml.inference.iterative.folds.transforms import TextSoFar
from apache_beam.ml.inference.iterative.handler import SessionModelHandler
from apache_beam.ml.inference.iterative.options import IterativeOptions
from apache_beam.ml.inference.iterative.options import Progress
from apache_beam.ml.inference.iterative.session import Delta
from apache_beam.ml.inference.iterative.session import Request
from apache_beam.ml.inference.iterative.session import Session
from apache_beam.ml.inference.iterative.session import Transcript

__all__ = [
    'AsRows',
    'Chunk',
    'Delta',
    'Emitted',
    'FinalsOnly',
    'FoldToPredictionResult',
    'GeneratorModelHandler',
    'Incomplete',
    'IterativeOptions',
    'PartialText',
    'Progress',
    'Request',
    'Sentence',
    'Sentences',
    'Session',
    'SessionModelHandler',
    'TextSoFar',
    'Timings',
    'Transcript',
    'Usage',
    'bigquery_schema'
]
