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

"""The coders of partial texts and sentences, registered on import."""

from apache_beam import coders
from apache_beam.ml.inference.iterative.folds.texts import PartialText
from apache_beam.ml.inference.iterative.folds.texts import Sentence


class TextCoder(coders.Coder):
  """As StrUtf8Coder, but half of a surrogate pair survives.

  An engine may hand it out, and one such text must not fail a pipeline.
  """
  def encode(self, value):
    return value.encode('utf-8', 'surrogatepass')

  def decode(self, encoded):
    return encoded.decode('utf-8', 'surrogatepass')

  def is_deterministic(self):
    return True

  def __eq__(self, other):
    return type(self) is type(other)

  def __hash__(self):
    return hash(type(self))


_FIELDS = coders.TupleCoder((
    TextCoder(),
    coders.VarIntCoder(),
    TextCoder(),
    TextCoder(),
    coders.NullableCoder(TextCoder())))


class _PartCoder(coders.Coder):
  part_type: type

  def encode(self, value):
    return _FIELDS.encode((
        value.request_id,
        value.index,
        value.text,
        value.finish_reason or '',
        value.error))

  def decode(self, encoded):
    *fields, finish_reason, error = _FIELDS.decode(encoded)
    return self.part_type(*fields, finish_reason or None, error)

  def is_deterministic(self):
    return True

  def to_type_hint(self):
    return self.part_type

  def __eq__(self, other):
    return type(self) is type(other)

  def __hash__(self):
    return hash(type(self))


class _PartialTextCoder(_PartCoder):
  part_type = PartialText


class _SentenceCoder(_PartCoder):
  part_type = Sentence


coders.registry.register_coder(PartialText, _PartialTextCoder)
coders.registry.register_coder(Sentence, _SentenceCoder)
