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

"""Any series of commits comes back the same, byte for byte."""

import os
import tempfile
from pathlib import Path

import conftest
import pytest
from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from tools.series.pull_request import PullRequest
from tools.series.pull_request import with_adds

# What has a meaning in a mail, in a diff or at the end of a line.
LINES = [
    *(
        '',
        'a = 1',
        'b = 2',
        '    c = 3',
        '\t',
        ' ',
        '-- d',
        '++ e',
        '@@ -1 +1 @@'),
    *('---', '+++ b/x', 'From 0123456789 Mon Sep 17 00:00:00 2001', '>From x'),
    *('diff --git a/x b/x', 'Subject: f', 'Adds: sdks/g.py', '-- ', '\\ No'),
    *('h\r', '\r', 'i\rj', 'k\fl', 'm\v', 'ä', '大', '\u2028', '\x85', '\ufeff'),
]
lines = st.lists(st.sampled_from(LINES), max_size=8)
ends = st.sampled_from(['\n', ''])
texts = st.builds(
    lambda body, end: ''.join(f'{x}\n' for x in body[:-1]) +
    (body[-1] + end if body else ''),
    lines,
    ends)
upstream = [n for n in conftest.RELEASE if n.endswith('.py')]
added = st.sampled_from(['apache_beam/a.py', 'new/b c.py', 'ü.txt', 'z'])
# A pull request: files to write, and files to change in a place.
changes = st.tuples(
    st.one_of(added, st.sampled_from(upstream)),
    st.integers(0, 40),
    st.integers(0, 3),
    texts)
series = st.lists(
    st.lists(changes, min_size=1, max_size=4), min_size=1, max_size=4)


def change(checkout, name, start, removed, text) -> None:
  """Replaces some lines of a file, which may not exist yet."""
  path = checkout.source / name
  old = path.read_bytes().decode() if path.exists() else ''
  kept = old.split('\n')
  start = min(start, len(kept) - 1)
  rest = '\n'.join(kept[start + removed:])
  checkout.write(name, ''.join(f'{x}\n' for x in kept[:start]) + text + rest)


def make(checkout, pull_requests) -> list[str]:
  """Commits the pull requests and returns the tree of each commit."""
  assert checkout.run('apply') == 0
  for number, pull_request in enumerate(pull_requests, 1):
    for one in pull_request:
      change(checkout, *one)
    checkout.git('add', '--all')
    if checkout.git('status', '--porcelain'):
      checkout.commit(f'Pull request {number}')
  return checkout.trees()


@settings(
    deadline=None,
    # An example takes long; the profile for soaking raises the number.
    max_examples=max(12, settings().max_examples // 10),
    suppress_health_check=[HealthCheck.too_slow])
@given(series)
def test_export_and_apply_are_inverse(pull_requests):
  with tempfile.TemporaryDirectory() as tmp, pytest.MonkeyPatch.context(
  ) as patch:
    conftest.move_in(Path(tmp) / 'home', patch)
    checkout = conftest.Checkout(Path(tmp) / 'work')
    trees = make(checkout, pull_requests)
    assert checkout.run('export') == 0
    files = checkout.files()
    checkout.wipe()
    assert checkout.run('apply') == 0
    assert checkout.trees() == trees
    assert checkout.run('export') == 0
    assert checkout.files() == files
    if len(trees) > 1:
      to = len(trees) // 2
      assert checkout.run('apply', '--to', to) == 0
      assert checkout.trees() == trees[-to - 1:]
    assert os.listdir(checkout.layout.build) == ['beam']


@given(
    st.lists(st.from_regex(r'sdks/[\w .-]*\w', fullmatch=True)),
    st.lists(st.sampled_from(LINES)))
def test_adds_can_be_put_in_and_taken_out(adds, hunk):
  body = ''.join(f'+{line}\n' for line in hunk)
  head = 'Subject: a\n\nText\n\nB: c\n\n'
  mail = f'{head}diff --git a/x b/x\n@@ -0,0 +1 @@\n{body}'
  pr = PullRequest('a', with_adds(mail, adds))
  assert pr.adds == adds
  assert pr.without_adds() + pr.diff == mail
  assert list(pr.file_diffs) == ['x']
