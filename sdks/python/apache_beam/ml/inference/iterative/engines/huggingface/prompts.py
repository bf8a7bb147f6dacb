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

"""Prompts of a Hugging Face model: texts, chats and token ids."""

from collections.abc import Sequence
from typing import Any

Prompt = str | list[int] | list[dict[str, str]]


def prompt_of(example: Any) -> Prompt:
  """A text, token ids or messages as plain Python values.

  Raises:
    ValueError: if it is none of these, or empty.
  """
  if hasattr(example, 'tolist'):
    # An array or a tensor.
    example = example.tolist()
  if isinstance(example, str):
    prompt = example
  elif not isinstance(example, Sequence) or isinstance(example, bytes):
    raise ValueError(
        'a prompt must be a str, a list of token ids or a list of messages, '
        f'not {type(example).__name__}')
  elif all(isinstance(i, int) and not isinstance(i, bool) for i in example):
    prompt = list(example)
  else:
    prompt = [_message(item) for item in example]
  if not prompt:
    raise ValueError('the prompt is empty')
  return prompt


def _message(item: Any) -> dict[str, str]:
  if isinstance(item, dict):
    role, content = item.get('role'), item.get('content')
  else:
    role = getattr(item, 'role', None)
    content = getattr(item, 'content', None)
  if not isinstance(role, str) or not isinstance(content, str):
    raise ValueError(
        "a list must hold token ids, all int, or messages with 'role' and "
        f"'content', both str, not {item!r}")
  return {'role': role, 'content': content}


class PromptEncoder:
  """Makes token ids of prompts.

  Args:
    tokenizer: of a Hugging Face model.
    vocabulary: how many tokens the model has.
    chat: whether a str is a message of a user.

  Raises:
    ValueError: if chat is set and the tokenizer has no chat template.
  """
  def __init__(self, tokenizer: Any, vocabulary: int, chat: bool):
    self._tokenizer = tokenizer
    self._vocabulary = vocabulary
    self._chat = chat
    if chat:
      self._check_template()

  def ids(self, prompt: Prompt) -> list[int]:
    """The token ids of a prompt, at least one.

    Raises:
      ValueError: if the prompt has none, or ids that the model has not, or the
        chat template refuses it.
    """
    if isinstance(prompt, str) and self._chat:
      prompt = [{'role': 'user', 'content': prompt}]
    if isinstance(prompt, str):
      ids = self._tokenizer(prompt)['input_ids'] if prompt else []
    elif prompt and isinstance(prompt[0], dict):
      ids = self._chat_ids(prompt)
    else:
      ids = list(prompt)
    odd = [i for i in ids if not 0 <= i < self._vocabulary]
    if odd:
      # It would end the engine, and with it all other requests.
      raise ValueError(
          f'the token id {odd[0]} is not among the {self._vocabulary} of the '
          'model')
    if not ids:
      raise ValueError('the prompt is empty')
    return ids

  def _chat_ids(self, messages: list[dict[str, str]]) -> list[int]:
    self._check_template()
    try:
      return self._tokenizer.apply_chat_template(
          messages, add_generation_prompt=True, return_dict=False)
    except Exception as e:
      # Templates refuse, for example, two turns of the same role.
      raise ValueError(f'the chat template refuses the prompt: {e}') from e

  def _check_template(self):
    if not self._tokenizer.chat_template:
      raise ValueError(
          f'the tokenizer of {self._tokenizer.name_or_path!r} has no chat '
          'template. Set its chat_template, or give texts as prompts')
