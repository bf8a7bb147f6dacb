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

"""Which punctuation ends a sentence, as far as it is known. No Beam here.

pysbd, sentencex and nupunkt know more abbreviations. But what they say of a
text changes as it grows: a sentence that was emitted would be none later.
"""

import re

# Quotes, brackets and Markdown's marks that belong to the sentence before.
CLOSING = '"\'”’»)]}*_`」』）】》〉'
_OPENING = '"\'“‘„«([{*_`¿¡'
# Abbreviations in front of a name or of an example; the first only as names,
_TITLES = frozenset(
    'col fr gen gov hon hr lt pres prof rep rev sen sgt'.split())
_NEVER = frozenset(
    'mr mrs ms dr st mt capt sra srta mme mlle dipl vs cf ca approx viz e.g i.e '
    'eg ie bzw ggf evtl inkl sog vgl z.b d.h u.a'.split())
# in front of a number,
_NUMBERED = frozenset(
    'no nos nr n° № p pp pg fig figs vol ch sec art eq ex par ver op bd abb kap '
    'tab'.split())
# or at the end of a sentence, maybe; the first only as names.
_DATES = frozenset('jan mar jun jul dec mon wed fri sat sun'.split())
_MAYBE = frozenset(
    'inc ltd co corp llc bros jr sr esq dept univ assn est ave blvd rd hwy al '
    'etc usw usf resp min max avg feb apr aug sep sept oct nov tue tues thu '
    'thurs'.split())
_STARTERS = frozenset(
    'A An And Are As At Be But By Can Did Do Does For From Has Have He Her Here '
    'His How However I If In Is It Its Let Many More Most My No Not On One Or '
    'Our Please She So Some Such Thank That The Their Then There These They '
    'This Those To Was We Were What When Where Which While Who Why Will With '
    'Would Yes You Your'.split())
# German dates are like "3. Mai".
_MONTHS = frozenset(
    'Januar Februar März April Mai Juni Juli August September Oktober November '
    'Dezember'.split())
# J, U.S, a.m and Ph.D, whose last period is not in it.
_INITIALS = re.compile(r'[^\W\d_]|[^\W\d_]{1,2}(\.[^\W\d_]{1,2})+')
_LIST_MARK = re.compile(
    r'[\s>#*_•–(\[-]*((\d{1,3}\.)*\d{1,3}|[^\W\d_]|[ivxIVX]{1,4})')
_IN_LINE_MARK = re.compile(r'[:;]\s+\d{1,2}$')


def is_list_mark(text: str) -> bool:
  """Whether a text is but the number or the letter of a list."""
  return _LIST_MARK.fullmatch(text.rstrip('.)*_ \t')) is not None


def ends_sentence(before: str, marks: str, after: str) -> bool | None:
  """Whether punctuation ends a sentence.

  Args:
    before: the text since the last sentence.
    marks: the punctuation, with what it closes.
    after: the text that follows, which starts with white space.

  Returns:
    None if more of the text must be known.
  """
  rule = _rule(before, marks)
  if rule == 'never':
    return False
  line = after.lstrip(' \t')
  if line.startswith('\n'):
    return True
  upcoming = after.lstrip().lstrip(_OPENING)
  if not upcoming:
    return None
  if rule == 'unless number':
    return not upcoming[0].isdigit()
  if rule == 'unless lower':
    return not upcoming[0].islower()
  if rule in ('unless date', 'if starter') and upcoming[0].isalpha():
    word = re.match(r'[^\W\d_]+', upcoming)[0]
    if word == upcoming:
      return None
    if rule == 'unless date':
      return not word[0].islower() and word not in _MONTHS
    return word in _STARTERS
  return rule != 'if starter'


def _rule(before: str, marks: str) -> str:
  """What decides; 'always' if nothing is against it."""
  if marks[0] in '.…' and (not before or before[-1].isspace() or
                           before[-1] in _OPENING):
    # An ellipsis amid a sentence ... like [...] this.
    return 'never'
  if marks[0] not in '.…!?':
    return 'always'
  if marks[0] != '.' or marks[1:].strip(CLOSING):
    return 'unless lower'
  if is_list_mark(before) or _IN_LINE_MARK.search(before):
    return 'never'
  word = before.split()[-1].lstrip(_OPENING)
  known, is_name = word.casefold(), word[:1].isupper()
  if known in _NEVER or is_name and known in _TITLES:
    return 'never'
  if known in _NUMBERED:
    return 'unless number'
  if re.fullmatch(r'\d{1,2}', word):
    return 'unless date'
  if _INITIALS.fullmatch(word) or known in _MAYBE or (is_name and
                                                      known in _DATES):
    return 'if starter'
  return 'unless lower' if len(marks) > 1 else 'always'
