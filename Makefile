# Everything a user or CI runs. Each target sets up what it needs in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint format clean help

help:
	@echo "make demo    trajectory of the bundled training run: table, files, figure (no torch, no network)"
	@echo "make test    lint, types and the whole test suite, the extractor included"
	@echo "make lint    ruff and pyright only"
	@echo "make format  rewrite the code in the project's format"
	@echo "make clean   remove the environment and outputs"

$(VENV)/.base: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(PIP) --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.base extract/pyproject.toml
	$(PIP) torch==2.13.0
	$(PIP) --editable . --editable ./extract --group test
	@touch $@

demo: $(VENV)/.base
	$(BIN)/mfgjax demo --out out/demo

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

test: lint
	$(BIN)/python -m pytest -n 2

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) out
