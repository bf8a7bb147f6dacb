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

"""The guide: its code runs, and troubleshooting names each message of ours."""

import ast
import functools
import itertools
import re
from collections.abc import Iterator

import pytest
from tests.test_readme import prints_what_stands_below
from tests.test_readme import snippets
from tools.layout import here

_ROOT = here().root
_PAGE = _ROOT / 'docs' / 'troubleshooting.md'
_SOURCES = ('transforms/batching', 'ml/inference')
# What stands on the page for a part of a message that differs.
_HOLE = '…'
# Between our own modules, or of Python's own protocols.
_INTERNAL = {'AssertionError', 'NotImplementedError', 'StopIteration'}
_LOGGED = {'info', 'warning', 'error', 'exception', 'critical'}
# An error that a chunk carries: its kind, and what happened.
_OF_A_CHUNK = re.compile(r'[a-z_]+: ')
_FEWEST_LETTERS = 10


@pytest.mark.parametrize(
    'snippet', snippets(*sorted((_ROOT / 'docs').glob('*.md'))))
def test_the_examples_of_the_guide_print_what_stands_below_them(snippet):
  prints_what_stands_below(snippet)


def test_troubleshooting_names_each_message():
  stems = [_pattern(stem) for stem in _stems()]
  lacking = [
      f'{place}: {message}' for message, place in _messages().items()
      if not any(stem.match(message) for stem in stems)
  ]
  assert not lacking, _said(
      'docs/troubleshooting.md lacks these messages. Add the beginning of each, '
      f'with {_HOLE} for what differs, to a row that names its remedy:',
      lacking)


def test_each_message_of_troubleshooting_exists():
  messages = _messages()
  gone = [
      stem for stem in _stems() if not any(map(_pattern(stem).match, messages))
  ]
  assert not gone, _said(
      'No source has these messages of docs/troubleshooting.md any more:', gone)


def test_messages_of_troubleshooting_are_long_enough_to_be_found():
  stems = list(_stems())
  assert len(stems) == len(set(stems))
  assert not [stem for stem in stems if _letters(stem) < _FEWEST_LETTERS]


@pytest.mark.parametrize(
    'source, messages',
    [
        (
            'raise ValueError(f"{x}: must be positive.")',
            ['…: must be positive.']),
        (
            'raise ValueError("Lengths " + f"of {a} and {b}.")',
            ['Lengths of … and ….']),
        (
            'raise CallFailed("lost", "the stream has ended")',
            ['lost: the stream has ended']),
        (
            'def f():\n  text = f"The file {x} is gone."\n  raise OSError(text)',
            ['The file … is gone.']),
        (
            'def f():\n  raise self._wrong(1)\n'
            'def _wrong(n):\n  return ValueError(f"The count {n} is wrong.")',
            ['The count … is wrong.']),
        (
            'raise ValueError("It is an array." if x else "It is a number.")',
            ['It is an array.', 'It is a number.']),
        (
            '_LOGGER.warning("%s: took %.1f s for it.", a, b)',
            ['…: took … s for it.']),
        (
            '_T = {1: "is a list of lists."}\nraise ValueError(f"{x} {_T.get(y, z)}")',
            ['… is a list of lists.']),
        (
            'for text in _all():\n  _LOGGER.error(text)\n'
            'def _all():\n  yield f"There is no {x} here."',
            ['There is no … here.']),
        (
            'def say(text):\n  _LOGGER.error(text)\nsay("The list is empty.")',
            ['The list is empty.']),
        ('error = f"engine: it died of {e}"', ['engine: it died of …']),
        ('raise AssertionError("It is never empty.")', []),
        ('raise ValueError(str(e))', []),
        ('raise', []),
    ])
def test_messages_are_found_in_a_source(source, messages):
  assert list(_messages_of(ast.parse(source))) == messages


def test_a_stem_is_the_beginning_of_a_message():
  assert _pattern('…: must be').match('Options(a=…): must be positive.')
  assert not _pattern('must be').match('Options(a=…): must be positive.')
  assert not _pattern('…: must be').match('Options(a=…): is not positive.')


def _said(what: str, lines: list[str]) -> str:
  return '\n  '.join([what, *lines])


def _letters(text: str) -> int:
  return len(re.findall(r'[^\W\d_]', text))


def _stems() -> Iterator[str]:
  """The messages of the page: code alone in the first cell of a row."""
  messages = _PAGE.read_text('utf-8').partition('\n## Messages\n')[2]
  for line in messages.splitlines():
    if line.startswith('| `'):
      yield from re.findall(r'`([^`]+)`', line.split(' | ')[0])


def _pattern(stem: str) -> re.Pattern:
  """Matches messages that begin so; a hole matches whatever differs."""
  return re.compile('.*?'.join(map(re.escape, stem.split(_HOLE))), re.DOTALL)


@functools.cache
def _messages() -> dict[str, str]:
  """Of each message that a user may see, where it stands."""
  found = {}
  package = _ROOT / 'sdks/python/apache_beam'
  for path in sorted(p for name in _SOURCES
                     for p in (package / name).rglob('*.py')):
    if not path.stem.endswith('_test'):
      tree = ast.parse(path.read_text('utf-8'))
      for message in _messages_of(tree):
        found.setdefault(message, path.relative_to(package).as_posix())
  assert found
  return found


def _messages_of(tree: ast.Module) -> Iterator[str]:
  texts, seen = _Texts(tree), set()
  for node in _walk(tree):
    for message in _said_by(node, texts):
      message = re.sub(rf'{_HOLE}+', _HOLE, message)
      if _letters(message) >= _FEWEST_LETTERS and message not in seen:
        seen.add(message)
        yield message


def _walk(node: ast.AST) -> Iterator[ast.AST]:
  """The nodes below one, without the parts of strings."""
  yield node
  if not isinstance(node, ast.JoinedStr):
    for child in ast.iter_child_nodes(node):
      yield from _walk(child)


def _said_by(node: ast.AST, texts: '_Texts') -> list[str]:
  """The messages of a statement that raises, of a logger, of a failed chunk."""
  if isinstance(node, ast.Raise):
    return texts.of(node.exc)
  if isinstance(node, ast.Call):
    if _name(node.func) == 'CallFailed':
      return texts.of(node)
    if 'LOGGER' in ast.unparse(node.func) and _name(node.func) in _LOGGED:
      return [
          re.sub(r'%[-.0-9]*[a-z]', _HOLE, text)
          for text in texts.of(node.args[0])
      ]
  if isinstance(node, (ast.Constant, ast.JoinedStr)):
    return [text for text in texts.of(node) if _OF_A_CHUNK.match(text)]
  return []


def _name(function: ast.expr) -> str:
  return ast.unparse(function).rpartition('.')[2]


class _Texts:
  """What the expressions of a module say, with a hole for what differs."""
  def __init__(self, tree: ast.Module):
    self._functions, self._values, self._busy = {}, {}, set()
    nodes = list(ast.walk(tree))
    for node in nodes:
      if isinstance(node, ast.FunctionDef):
        self._functions.setdefault(node.name, []).append(node)
      elif isinstance(node, ast.Assign):
        for name in map(ast.unparse, node.targets):
          self._values.setdefault(name, []).append(node.value)
      elif isinstance(node, ast.For):
        self._values.setdefault(ast.unparse(node.target), []).append(node.iter)
    for node in nodes:
      if isinstance(node, ast.Call):
        for function in self._functions.get(_name(node.func), ()):
          for name, value in zip(_parameters(function), node.args):
            self._values.setdefault(name, []).append(value)

  def of(self, node: ast.AST | None, known: dict | None = None) -> list[str]:
    """All texts that an expression may have; none if none is known.

    Args:
      known: the texts of the names that are parameters.
    """
    known = known or {}
    match node:
      case ast.Constant(value=str(text)):
        return [text]
      case ast.JoinedStr(values=parts):
        return self._joined(parts, known)
      case ast.FormattedValue(value=ast.Name(id=name)):
        return known.get(name, [])
      case ast.FormattedValue(
          value=ast.Call(
              func=ast.Attribute(ast.Name(id=table), 'get'), args=[_, other])):
        return self._table(table) + self.of(other)
      case ast.BinOp(op=ast.Add(), left=left, right=right):
        return self._joined([left, right], known)
      case ast.IfExp(body=one, orelse=other):
        return self.of(one, known) + self.of(other, known)
      case ast.Name(id=name):
        return known.get(name) or self._named(name)
      case ast.Call(func=function, args=args):
        return self._called(_name(function), args, known)
    return []

  def _joined(self, parts, known):
    texts = [self.of(part, known) or [_HOLE] for part in parts]
    return [''.join(some) for some in itertools.product(*texts)]

  def _table(self, name):
    return [
        text for table in self._values.get(name, ())
        if isinstance(table, ast.Dict) for value in table.values
        for text in self.of(value)
    ]

  def _named(self, name):
    """Of all values that the name has in the module."""
    if name in self._busy:
      return []
    self._busy.add(name)
    texts = [
        text for value in self._values.get(name, ()) for text in self.of(value)
    ]
    self._busy.remove(name)
    return texts

  def _called(self, name, args, known):
    if name in _INTERNAL:
      return []
    texts = [self.of(arg, known) for arg in args]
    if name == 'CallFailed':
      parts = itertools.product(*(some or [_HOLE] for some in texts[:2]))
      return [': '.join(some) for some in parts]
    if name not in self._functions:
      # Of an exception.
      return texts[0] if texts else []
    return [
        text for function in self._functions[name]
        for text in self._given_by(function, texts)
    ]

  def _given_by(self, function, texts):
    known = {
        name: some
        for name, some in zip(_parameters(function), texts) if some
    }
    return [
        text for node in ast.walk(function)
        if isinstance(node, (ast.Return, ast.Yield))
        for text in self.of(node.value, known)
    ]


def _parameters(function: ast.FunctionDef) -> list[str]:
  return [arg.arg for arg in function.args.args if arg.arg != 'self']
