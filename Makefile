# `make demo` and `make test` need nothing but Python 3.11 or later and make: each sets up what it needs first.
PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
COMPILE := $(BIN)/uv pip compile --python-version 3.11 --universal --generate-hashes \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links --no-config --quiet

# uv trusts what the machine trusts, as pip can be told to: a company's own certificates included.
export UV_SYSTEM_CERTS ?= true

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow check format lint types contracts bench bench-fine-tuning bench-training lock clean

help: ## Show what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-17s %s\n", $$1, $$2}'

install: $(INSTALLED) ## Make the environment in .venv, with the locked versions

$(INSTALLED): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.5"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --requirement requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

demo: $(INSTALLED) ## Start the service and do the main job on real images
	@$(BIN)/tleg demo

test: $(INSTALLED) ## Run the tests that take seconds each: some minutes in all (JOBS=8: in eight processes)
	$(BIN)/pytest -m "not slow" --numprocesses $(JOBS) --dist worksteal

test-slow: $(INSTALLED) ## Run the others: processes killed at random, real clients, images built without an engine
	$(BIN)/pytest -m slow --ignore tests/chaos --numprocesses $(JOBS) --dist worksteal
	$(BIN)/pytest -m slow tests/chaos

check: format lint types contracts test ## Everything CI checks

format: $(INSTALLED) ## Check the format
	$(BIN)/ruff format --check .

lint: $(INSTALLED) ## Lint
	$(BIN)/ruff check .

types: $(INSTALLED) ## Check the types, strictly
	$(BIN)/mypy

contracts: $(INSTALLED) ## Check which package may import which
	$(BIN)/lint-imports --no-cache

bench: $(INSTALLED) ## Measure the service against its peers, in one run
	$(BIN)/python -m benchmarks.serving

bench-fine-tuning: $(INSTALLED) ## Measure fine-tuning against timm's own loop, on real images
	$(BIN)/python -m benchmarks.fine_tuning

bench-training: $(INSTALLED) ## Measure a learngene's training step against a plain ViT's of the same shape
	$(BIN)/python -m benchmarks.auxiliary_step

lock: ## Renew requirements.lock from pyproject.toml, and the locks of docker/ from both
	$(COMPILE) pyproject.toml --extra dev --output-file requirements.lock
	$(COMPILE) pyproject.toml --constraint requirements.lock --excludes docker/api-excludes.txt --output-file docker/requirements-api.lock
	$(COMPILE) pyproject.toml --constraint requirements.lock --excludes docker/worker-excludes.txt --output-file docker/requirements-worker.lock
	$(COMPILE) docker/build-tools.in --constraint requirements.lock --output-file docker/requirements-build.lock

clean: ## Remove the environment and all caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
