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

"""Keeps API keys out of pipelines and of messages. Imports nothing from Beam.
"""

import re

__all__ = ['hide_keys', 'is_variable_name']

# How keys of providers start.
_PREFIX = (
    'sk|pk|rk|gsk|hf|xai|pplx|nvapi|nvcf|r8|fw|tgp|csk|ghp|gho|github_pat|glpat'
)
_KEY = re.compile(
    rf'\b(?:{_PREFIX})[-_](?=\S*[\d*A-Z])[\w*.-]{{8,}}|\bAIza[\w-]{{20,}}|'
    r'\beyJ[\w-]+\.[\w.-]+|\b[Bb]earer \S{8,}|[\w-]*\*{3,}[\w*-]*|'
    r'(?<=://)[^/@\s]+(?=@)')
# Keys mix letters and digits, or cases, or are long.
_WORD = re.compile(
    r'[A-Z\d]{0,8}|[a-z\d]{0,8}|([A-Z]{1,20}|[a-z]{1,20})\d{0,4}|'
    r'[A-Za-z][a-z]{0,10}([A-Z][a-z]{1,10}){0,4}')


def is_variable_name(value: str) -> bool:
  """Whether it is a name of an environment variable, and not like a key."""
  return (
      value.isascii() and value.isidentifier() and len(value) <= 64 and
      not re.match(f'(?:{_PREFIX})_', value) and not _KEY.fullmatch(value) and
      all(_WORD.fullmatch(word) for word in value.split('_')))


def hide_keys(text: str, key: str | None = None) -> str:
  """A text without keys.

  Args:
    key: also hidden where a message has only its start.
  """
  if key:
    text = text.replace(key, '***')
    if len(key) >= 12:
      text = re.sub(rf'{re.escape(key[:6])}\S*', '***', text)
  return _KEY.sub('***', text)
