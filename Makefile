# Evenstream: `make demo` and `make test` do their own set-up.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
COMPILED := $(wildcard sidecar/wire/*.py sidecar/balance/*.py sidecar/splice/*.py sidecar/net/*.py)

.DEFAULT_GOAL := help
.PHONY: help build lint test demo demo-cluster e2e interop bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: $(VENV)/.built ## Leave a ready .venv with the compiled build

$(VENV)/.installed: pyproject.toml
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	EVENSTREAM_COMPILE=0 $(PY) -m pip install --quiet --disable-pip-version-check -e '.[dev]' setuptools
	@touch $@

$(VENV)/.built: $(VENV)/.installed setup.py $(COMPILED)
	@echo "compiling with mypyc"
	@$(PY) setup.py -q build_ext --inplace > $(VENV)/compile.log 2>&1 || { cat $(VENV)/compile.log; exit 1; }
	@touch $@

lint: build ## Formatting, lint and types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

clean: ## Remove what the build made
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name '*.so' -not -path './.venv/*' -delete
