.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# On CPU this range resolves to what the machine's package index offers; see the README for CUDA builds.
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help install train train-long test faults lint types layers docs docs-check check bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "isogloss needs Python 3.11 or newer; set PYTHON=python3.x"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install --quiet --editable '.[test]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-test
	$(PIP) install --quiet --editable '.[dev]'
	@touch $@

install: $(VENV)/.installed  ## create .venv and install isogloss into it

train: $(VENV)/.installed  ## train the default recipe, or go on with it where it stopped
	$(BIN)/isogloss train

train-long: $(VENV)/.installed  ## train the larger recipe: about an hour on two cores
	$(BIN)/isogloss train stdlib-hour

test: $(VENV)/.installed-test  ## run the tests
	$(BIN)/python -m pytest -n 2

faults: $(VENV)/.installed-test  ## the campaign: kill, damage and fail runs a hundred times over (about 40 minutes)
	ISOGLOSS_FAULTS=100 $(BIN)/python -m pytest -n 2 -m "campaign or control"
	ISOGLOSS_FAULTS=1 $(BIN)/python -m pytest tests/gpu

lint: $(VENV)/.installed-dev  ## format and lint with ruff, without changing anything
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev  ## check types with pyright
	$(BIN)/pyright --pythonpath $(BIN)/python

layers: $(VENV)/.installed-dev  ## check that no room imports one above it
	$(BIN)/lint-imports

docs: $(VENV)/.installed  ## write the tables of the docs anew
	$(BIN)/python benchmarks/tables.py

docs-check: $(VENV)/.installed  ## check that the tables of the docs are fresh, and none is made by hand
	$(BIN)/python benchmarks/tables.py --check

check: lint types layers docs-check test  ## all of the above

bench: $(VENV)/.installed-test  ## speed against peers, side by side (about half an hour)
	$(BIN)/python benchmarks/train.py
	$(BIN)/python benchmarks/attention.py
	$(BIN)/python benchmarks/tokenizer_speed.py
	$(BIN)/python benchmarks/init.py
	$(BIN)/python benchmarks/loader.py
	$(BIN)/python benchmarks/prepare.py
	$(BIN)/python benchmarks/checkpoints.py --compile
	$(BIN)/python benchmarks/scaling.py

clean:  ## remove .venv and caches; runs and prepared corpora stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache
