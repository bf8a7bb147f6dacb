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

"""How a runner takes the delay of a deferral. No Beam here.

Some resume a text when it asks for it. Those in Java read whole seconds of the
delay, so that less than one is none. Others resume it at once.
"""

import math

# A runner may be so much early, and still take the whole delay.
_EARLY_SECS = 0.005
# A delay tells the kind of a runner if it has that much beyond whole seconds.
_TELLING_SECS = 0.05
# How much a newer deferral counts; one that is not as the kind says changes it.
_WEIGHT = 0.5
_POLL_SECS = 0.1
# Asked for beyond whole seconds, as a runner takes off what its bundle takes.
_SLACK_SECS = 0.5


class RunnerDelays:
  """Learns which kind a runner is, from when texts resume.

  Attributes:
    poll_secs: from a deferral without a delay until its text is processed.
  """
  def __init__(self):
    self.poll_secs = _POLL_SECS
    # Shares of the deferrals that resumed early, and in spite of whole seconds.
    self._early = 0.0
    self._ignored = 0.0

  @property
  def are_taken(self) -> bool:
    """Whether texts resume when they ask for it."""
    return self._early < 0.5

  @property
  def are_cut(self) -> bool:
    """Whether a delay is taken in whole seconds."""
    return not self.are_taken and self._ignored < 0.5

  @property
  def are_ignored(self) -> bool:
    """Whether texts resume at once."""
    return not self.are_taken and self._ignored >= 0.5

  def resumed(self, delay: float, after: float) -> None:
    """A text that asked for a delay was processed again after some seconds."""
    whole = math.floor(delay)
    if delay - whole >= _TELLING_SECS:
      early = after < delay - _EARLY_SECS
      self._early += _WEIGHT * (early - self._early)
    if whole:
      ignored = after < whole - _EARLY_SECS
      self._ignored += _WEIGHT * (ignored - self._ignored)
    elif not self.are_taken and after > 0:
      # It waits for a chunk then, so that it is not asked more often.
      after = min(max(after, _POLL_SECS), 1.0)
      self.poll_secs += 0.25 * _WEIGHT * (after - self.poll_secs)

  def delay(self, wanted: float, polls: float) -> float:
    """What to ask for.

    Args:
      wanted: in how many seconds there is something to do.
      polls: how often the text may resume without a chunk until then.
    """
    if self.are_taken:
      return wanted
    whole = math.floor(wanted)
    if self.are_ignored or (wanted - whole) / self.poll_secs > max(polls, 0):
      whole += 1
    return whole + _SLACK_SECS if whole else 0.0
