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

# Everything is made in build/; `make help` lists what there is to do.

PYTHON ?= python3
# Another package index beside pip's own, such as one with CPU builds of torch.
EXTRA_INDEX ?=
ifneq ($(EXTRA_INDEX),)
export PIP_EXTRA_INDEX_URL := $(EXTRA_INDEX)
endif
# The demo's own text, and how many docstrings it takes without one.
INPUT ?=
TEXTS ?=

VENV := build/venv/bin/python
CONFORMANCE := $(VENV) -m apache_beam.testing.inference_conformance
# Of the runner to try; without them those that are at hand.
RUNNER_OPTIONS ?=
# A part of the names of modules, places changed in each (0: all), and their seed.
MODULES ?=
SAMPLE ?= 60
SEED ?= 0
# Of the replay; a comma would end an argument of $(if).
LOADS := 0.2,0.6,0.9
export HF_HUB_OFFLINE := 1

.DEFAULT_GOAL := help
.PHONY: help build demo wheel test test-upstream mutants check prefixes prefixes-own bench \
  bench-peers conformance soak apply export clean

help: ## This list
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1|\2/p' Makefile | column -t -s '|'

build: ## The patched SDK, models and Prism, in build/
	@$(PYTHON) -m tools.build

demo: build ## Embed real text, without and with the flag (INPUT=file TEXTS=n)
	@$(VENV) -m tools.demo $(if $(INPUT),--input $(INPUT)) $(if $(TEXTS),--texts $(TEXTS))

wheel: build ## The patched SDK as a wheel, in build/dist/
	@$(VENV) -m tools.wheel

test: build ## Every test
	@$(VENV) -m tox run --current-env -q -e $$($(VENV) -c \
	  'import sys; print("py%d%d" % sys.version_info[:2])')

test-upstream: build ## Beam's own tests, flags off and flags on
	@$(VENV) -m tools.upstream_tests

mutants: build ## Do tests notice changed code? (MODULES=name SAMPLE=n SEED=n)
	@$(VENV) -m tools.mutants $(MODULES) --sample $(SAMPLE) --seed $(SEED)

check: build ## Lint, types, the rules of the series, the workflow
	@$(VENV) -m tools.lint

prefixes: build ## Test every prefix of the series, all of them
	@$(VENV) -m tools.prefixes --all

prefixes-own: build ## Test the prefixes that were not green yet, by their own tests
	@$(VENV) -m tools.prefixes --own

bench: build ## Benchmarks against the released SDK, in build/bench-*.json (TRACE=csv)
	@$(VENV) -m tools.bench overhead $(if $(TRACE),--trace=$(TRACE))
	@$(VENV) -m tools.bench policy $(if $(TRACE),--trace=$(TRACE))
	@$(VENV) -m tools.bench model
	@$(VENV) -m tools.bench iterative
	@$(VENV) -m tools.bench streaming --pairs 3
	@$(if $(TRACE),$(VENV) -m tools.bench throughput --pairs 3 --trace=$(TRACE))
	@$(if $(TRACE),$(VENV) -m apache_beam.testing.benchmarks.batching_replay \
	  $(TRACE) --column ContextTokens --time_column TIMESTAMP --speedup 10 \
	  --elements 1500 --max_wait_secs 2 --baseline --loads $(LOADS) \
	  --streaming --runner=PrismRunner --prism_location=build/bin/prism \
	  > build/bench-replay.txt && cat build/bench-replay.txt)

bench-peers: build ## Embed the same texts with other products, in build/bench-peers.json
	@$(VENV) -m tools.bench peers --pairs 3

conformance: build ## Which guarantees hold on runners (RUNNER_OPTIONS='--runner=...')
	@set -e; if [ -n "$(RUNNER_OPTIONS)" ]; then \
	  $(CONFORMANCE) $(RUNNER_OPTIONS); \
	else \
	  $(CONFORMANCE) --runner=FnApiRunner; \
	  $(CONFORMANCE) --runner=PrismRunner --prism_location=build/bin/prism; \
	  $(CONFORMANCE) --runner=PrismRunner --prism_location=build/bin/prism \
	    --streaming; \
	fi

soak: build ## The tests with 50 times the examples, longer campaigns, real servers
	@HYPOTHESIS_PROFILE=soak $(VENV) -m tools.tests --timeout=0
	@$(VENV) -m tests.faults_soak
	@$(VENV) -m tests.servers_soak
	@$(VENV) -m tools.vllm_env tests/vllm_soak.py

apply: ## Make build/beam from the series
	@$(PYTHON) -m tools.series apply

export: ## Write the commits of build/beam to patches/ and sdks/
	@$(PYTHON) -m tools.series export

clean: ## Remove build/ but for build/beam, which holds your work
	@find build -mindepth 1 -maxdepth 1 ! -name beam -exec rm -rf {} +
