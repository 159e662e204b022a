# Everything goes through one virtual environment, made from exact versions in constraints.txt.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup demo test slow chaos gpu check bench trackers clean

help:  ## show what there is to do
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("durabert needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing pinned dependencies (once, a minute or two)"
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1' -c constraints.txt
	@$(BIN)/python -m pip install --quiet --editable '.[local,onnx,tensorboard]' --group dev -c constraints.txt
	@# pip compiles what it installs, but not sources that stay where they are.
	@$(BIN)/python -m compileall -q src tests
	@echo "Compiling the kernels that training on a CPU uses (once, half a minute)"
	@$(BIN)/python -c 'import durabert.bert.compiled'
	@touch $@

setup: $(STAMP)  ## make the virtual environment

demo: $(STAMP)  ## train two configurations on the demo reviews and predict
	@$(BIN)/durabert demo

check: $(STAMP)  ## static checks: ruff, mypy, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

PYTEST := $(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

test: $(STAMP)  ## the test suite
	@$(PYTEST) -m 'not pages'

slow: $(STAMP)  ## tests that take long: killed processes, and what README and docs show, command by command
	@$(PYTEST) tests/docs tests/chaos

chaos: $(STAMP)  ## every fault of the chaos suite, some 40 minutes
	@CHAOS_KILLS=20 CHAOS_RUNS=20 $(BIN)/pytest tests/chaos -m 'long or not long'
	@$(BIN)/durabert chaos

gpu: $(STAMP)  ## the tests that need a GPU, on a machine that has one
	@$(BIN)/pytest tests/gpu

bench: $(STAMP)  ## the figures of docs/benchmarks.md, as a table and as benchmarks.json
	@$(BIN)/python -m pip install --quiet --group bench -c constraints.txt
	@$(BIN)/python -m benchmarks

trackers: $(STAMP)  ## the tests of MLflow and W&B, which this installs: some 50 packages
	@$(BIN)/python -m pip install --quiet --editable '.[mlflow,wandb]' sqlalchemy alembic -c constraints.txt
	@$(BIN)/pytest tests/trackers

clean:  ## remove the virtual environment and caches
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
