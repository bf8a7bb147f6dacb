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

"""Padding of tensors or arrays of unequal length to one batch.

``torch.stack`` and ``numpy.stack`` refuse those of different length. With
`PaddingOptions` a model handler pads the tensors of a batch to its longest, and
gives results as if each example had been run alone: the example in a
`PredictionResult` is the original one, and outputs with one row per token are
cut back to its length.

`options` holds what users set, `pad` and `cut` do the work, and `inference_fn`
puts it around the inference function of a model handler.
"""

from apache_beam.ml.inference.padding.inference_fn import padded
from apache_beam.ml.inference.padding.inference_fn import validate_padding_args
from apache_beam.ml.inference.padding.options import PaddingOptions

__all__ = ['PaddingOptions', 'padded', 'validate_padding_args']
