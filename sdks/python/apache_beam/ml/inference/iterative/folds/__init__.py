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

"""Transforms that fold chunks into results, texts, sentences and rows."""

from apache_beam.ml.inference.iterative.folds.incomplete import Incomplete
from apache_beam.ml.inference.iterative.folds.rows import AsRows
from apache_beam.ml.inference.iterative.folds.rows import bigquery_schema
from apache_beam.ml.inference.iterative.folds.texts import PartialText
from apache_beam.ml.inference.iterative.folds.texts import Sentence
from apache_beam.ml.inference.iterative.folds.transforms import FinalsOnly
from apache_beam.ml.inference.iterative.folds.transforms import FoldToPredictionResult
from apache_beam.ml.inference.iterative.folds.transforms import Sentences
from apache_beam.ml.inference.iterative.folds.transforms import TextSoFar

__all__ = [
    'AsRows',
    'FinalsOnly',
    'FoldToPredictionResult',
    'Incomplete',
    'PartialText',
    'Sentence',
    'Sentences',
    'TextSoFar',
    'bigquery_schema'
]
