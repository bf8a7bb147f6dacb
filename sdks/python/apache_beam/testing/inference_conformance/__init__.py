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

"""Which guarantees of batching by length and partial results hold on a runner.

    python -m apache_beam.testing.inference_conformance \
        --runner=FlinkRunner --flink_master=... --streaming [any pipeline option]

Each case is a small pipeline with a known outcome. It shares no files with its
workers: what it counts are metrics of the job. Cases run in a process of their
own, with a deadline. ``bucketing_cases`` and ``iterative_cases`` say what is
guaranteed, and ``observations`` how it is counted.
"""
