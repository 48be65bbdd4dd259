# Evenstream. `make demo` and `make test` do their own set-up; everything else is in `make help`.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
PYTEST := $(PY) -m pytest
COMPILED := $(wildcard sidecar/wire/*.py sidecar/balance/*.py sidecar/splice/*.py sidecar/net/*.py)
# Half the tests wait for sockets and processes, so three workers a core pay.
WORKERS ?= 6
# Generated pods that go through a real API server and the webhook; 1000 take two minutes.
PODS ?= 40
export PODS

.DEFAULT_GOAL := help
.PHONY: help build lint test test-compiled test-interpreted demo demo-cluster e2e e2e-long interop sim fuzz soak bench lock protos docs format clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: $(VENV)/.built ## Leave a ready .venv with the compiled build

$(VENV)/.installed: pyproject.toml hack/requirements/dev.txt
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "installing dependencies into $(VENV)"
	@$(PIP) --require-hashes -r hack/requirements/dev.txt
	@EVENSTREAM_COMPILE=0 $(PIP) --no-deps --no-build-isolation --config-settings editable_mode=compat -e .
	@touch $@

$(VENV)/.built: $(VENV)/.installed setup.py $(COMPILED)
	@echo "compiling wire, balance, splice and net with mypyc"
	@$(PY) setup.py -q build_ext --force --inplace > $(VENV)/compile.log 2>&1 || { cat $(VENV)/compile.log; exit 1; }
	@touch $@

test: test-compiled test-interpreted ## All tests that need no cluster, compiled and interpreted

test-compiled: build
	@echo "== compiled"
	@$(PYTEST) -q -n $(WORKERS) --dist loadgroup -m "not e2e and (not interop or smoke)" $(ARGS)

test-interpreted: build
	@echo "== interpreted"
	@EVENSTREAM_BUILD=interpreted $(PYTEST) -q -n $(WORKERS) --dist loadgroup -m "not e2e and not interop and not once" $(ARGS)

demo: build ## The whole idea in half a minute, without a cluster
	@$(PY) examples/greeter/demo.py $(DEMO_ARGS)

demo-cluster: build ## The same on a real Kubernetes (CONTEXT=name uses yours)
	@$(PY) hack/demo-cluster $(DEMO_ARGS)

e2e: build ## End-to-end tests on a real Kubernetes (CONTEXT=name uses yours)
	@$(PYTEST) -q -m e2e tests/e2e $(ARGS)

e2e-long: build ## The same with other languages' clients, make demo-cluster and a longer outage (E2E_OUTAGE=600: seconds)
	@E2E_LONG=1 $(PYTEST) -q -m e2e tests/e2e $(ARGS)

interop: build ## The official gRPC interop cases, h2spec and the conformance suite, with real stacks
	@$(PYTEST) -q -n $(WORKERS) --dist loadgroup -m interop tests/interop $(ARGS)

fuzz: build ## A million inputs and more against frames, header blocks and the engine (FUZZ="engine --runs 50000")
	@$(PY) -c 'import atheris' 2>/dev/null || $(PY) -m pip install --quiet --disable-pip-version-check 'atheris>=3.0'
	@$(PY) tests/fuzz/fuzzrun.py $(FUZZ)

bench: build ## CPU, latency and memory beside HAProxy and Envoy (BENCH=--quick for a short run)
	@$(PY) -m bench $(BENCH)

sim: build ## 10,000 seeds of a whole cluster in virtual time (SIM='--seed 17' replays one)
	@$(PY) tests/sim/run.py $(SIM)

soak: build ## Ten minutes of mixed load while servers come and go (SOAK="--seconds 60")
	@$(PY) tests/soak/soak_run.py $(SOAK)

docs: build ## The documentation as a site in build/site
	@$(VENV)/bin/mkdocs build --strict --quiet --config-file docs/mkdocs/mkdocs.yml
	@echo "build/site/index.html"

lint: build ## Formatting, lint and types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

format: build ## Put the code into its format
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

lock: build ## Pin the newest versions that pyproject.toml allows (LOCK=--keep: only what it no longer agrees with)
	@$(PY) hack/lock.py $(LOCK)

protos: build ## Make the greeter example's generated code again
	@$(PY) examples/greeter/generate.py

clean: ## Remove what the build made
	rm -rf $(VENV) .fuzz build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name '*.so' -not -path './.venv/*' -delete
