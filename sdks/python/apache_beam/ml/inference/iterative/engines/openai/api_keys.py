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

# How keys of providers start; names of models start with some of them and '-'.
_PREFIX = (
    '(?:sk|pk|rk|xai|pplx|nvapi|nvcf|tgp|csk|glpat)[-_]|'
    '(?:gsk|hf|r8|fw|ghp|gho|github_pat)_')
_OF_MODELS = '(?:pplx-|hf_|r8_|fw_|tgp_)'
_KEY = re.compile(
    rf'\b(?!{_OF_MODELS})(?:{_PREFIX})(?=\S*[\d*A-Z])[\w*.-]{{8,}}|'
    rf'\b{_OF_MODELS}(?:v\d_)?(?=\w*\d)[A-Za-z\d]{{16,}}|\bAIza[\w-]{{20,}}|'
    r'\beyJ[\w-]+\.[\w.-]+|\b[Bb]earer (?=\S*[^a-z\s])\S{8,}|'
    r'[\w-]*\*{3,}[\w*-]*|(?<=://)[^/@\s]+(?=@)')
# Keys mix letters and digits, or cases, or are long.
_WORD = re.compile(
    r'[A-Z\d]{0,8}|[a-z\d]{0,8}|([A-Z]{1,28}|[a-z]{1,20})\d{0,4}|'
    r'[A-Za-z][a-z]{0,10}([A-Z]{1,5}[a-z]{1,10}){0,4}[A-Z]{0,3}\d?')
# What is put for a key where a server wants none: EMPTY, none, ollama, x.
_DUMMY = re.compile('[a-z]{1,8}|[A-Z]{1,8}')


def is_variable_name(value: str) -> bool:
  """Whether it is a name of an environment variable, and not like a key."""
  return (
      value.isascii() and value.isidentifier() and len(value) <= 64 and
      not re.match(rf'(?:{_PREFIX})[^_]{{9,}}', value) and
      not _KEY.fullmatch(value) and
      all(_WORD.fullmatch(word) for word in value.split('_')))


def hide_keys(text: str, key: str | None = None) -> str:
  """A text without keys.

  Args:
    key: also hidden where a message has only its start. One that is a short
      word of letters is none.
  """
  if key and not _DUMMY.fullmatch(key):
    if len(key) >= 8:
      text = text.replace(key, '***')
    text = re.sub(rf'(?<!\w){re.escape(key)}(?!\w)', '***', text)
    if len(key) >= 12:
      text = re.sub(rf'{re.escape(key[:6])}\S*', '***', text)
  return _KEY.sub('***', text)
