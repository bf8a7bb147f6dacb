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

"""A pytest plugin: no property fails because the machine is busy, and
HYPOTHESIS_PROFILE=soak asks for more examples where a property sets no number;
tests of servers and series have longer campaigns then. Each prefix of the series has
fewer, as all run again on the whole."""

import os

from hypothesis import HealthCheck
from hypothesis import settings

_ANY_SPEED = {'deadline': None, 'suppress_health_check': [HealthCheck.too_slow]}
settings.register_profile('any_speed', **_ANY_SPEED)
settings.register_profile('prefix', max_examples=25, **_ANY_SPEED)
settings.register_profile('soak', max_examples=5000, **_ANY_SPEED)
settings.load_profile(os.environ.get('HYPOTHESIS_PROFILE', 'any_speed'))
