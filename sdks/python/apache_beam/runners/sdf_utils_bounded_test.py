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

import unittest

from apache_beam.io.restriction_trackers import OffsetRange
from apache_beam.io.restriction_trackers import OffsetRestrictionTracker
from apache_beam.runners.sdf_utils import RestrictionTrackerView
from apache_beam.runners.sdf_utils import ThreadsafeRestrictionTracker


class _UnboundedTracker(OffsetRestrictionTracker):
  def is_bounded(self):
    return False


class RestrictionTrackerViewBoundedTest(unittest.TestCase):
  def test_view_answers_as_its_tracker(self):
    for tracker_class, bounded in ((OffsetRestrictionTracker, True),
                                   (_UnboundedTracker, False)):
      with self.subTest(bounded=bounded):
        tracker = tracker_class(OffsetRange(0, 10))
        view = RestrictionTrackerView(ThreadsafeRestrictionTracker(tracker))
        self.assertIs(bounded, view.is_bounded())


if __name__ == '__main__':
  unittest.main()
