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

"""Words that texts are held against."""

import pytest
from tools import words


@pytest.mark.parametrize(
    'text, found',
    [
        ('A full room loses half.', 'room'),
        ('It waits in the waiting room.', 'waiting room'),
        ('A call that is dearer than `n` tokens.', 'dearer'),
        ('Nothing is lost or doubled.', 'doubled'),
        ('Chunks seen behind a `Reshuffle`.', 'behind a Reshuffle'),
        ('One flight for each input.', 'flight'),
        ('The deadline is told by the state.', 'is told'),
    ])
def test_a_private_word_is_found(text, found):
  (problem, ) = words.of_text('a.md', f'First line.\n{text}')
  assert problem.startswith(f'a.md:2: "{found}"; write: ')


@pytest.mark.parametrize(
    'text',
    [
        'At most 8 in-flight requests are in flight.',
        'Pace is the poll schedule.',
        'bedroom, ticketing, spaces, endear',
    ])
def test_other_words_pass(text):
  assert words.of_text('a.md', text) == []
