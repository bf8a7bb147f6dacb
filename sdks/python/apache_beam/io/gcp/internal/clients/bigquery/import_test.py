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

"""Tests that importing Beam without the extra gcp prints nothing."""

import subprocess
import sys
import unittest


class ImportTest(unittest.TestCase):
  def test_beam_without_apitools_prints_nothing(self):
    code = (
        'import sys, logging\n'
        'sys.modules["apitools"] = None\n'
        'import apache_beam\n'
        'assert not logging.getLogger().handlers\n'
        'from apache_beam.io.gcp import bigquery_tools\n'
        'assert bigquery_tools.TableReference is None\n')
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code],
                          capture_output=True,
                          text=True,
                          check=False)
    self.assertEqual((done.returncode, done.stderr), (0, ''))


if __name__ == '__main__':
  unittest.main()
