# Everything a user or CI runs. Each target sets up what it needs in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-versions notebooks docs bench lint format readme train bundle clean help

help:
	@echo "make demo    trajectory of the bundled training run: table, files, figure (no torch, no network)"
	@echo "make test    lint, types and the whole test suite, the extractor included"
	@echo "make test-versions  the extractor on older transformers (downloads them, about 250 MB each)"
	@echo "make lint    ruff and pyright only"
	@echo "make format  rewrite the code in the project's format"
	@echo "make notebooks  rewrite each notebook's .ipynb from its .py, without outputs"
	@echo "make docs    the documentation site with executed notebooks, in out/docs"
	@echo "make bench [NAMES='coverage recovery']  run benchmarks, rewrite the tables of the docs"
	@echo "make readme  rewrite figures of the README and tables of the docs from the bundled runs and benchmark results"
	@echo "make train RUN=runs/new [ARGS='--experts 16 ...']   train a small OLMoE (hours)"
	@echo "make bundle RUN=runs/new                            extract it into mfgjax/bundled/new"
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
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations 15

# Each version lies in a folder of its own and goes before the environment's on the path.
TRANSFORMERS_VERSIONS ?= 5.2.0 4.57.6
NUMPY = $$($(BIN)/python -c 'import numpy; print(numpy.__version__)')

.venv-transformers-%: $(VENV)/.test
	rm -rf $@
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --target $@.partial \
		transformers==$* numpy==$(NUMPY)
	mv $@.partial $@

test-versions: $(addprefix .venv-transformers-,$(TRANSFORMERS_VERSIONS))
	for folder in $^; do \
		PYTHONPATH=$$folder $(BIN)/python -m pytest tests/extract/test_versions.py -rs || exit 1; \
	done

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: $(VENV)/.test
	$(BIN)/jupytext --quiet --update --to ipynb notebooks/*.py

# The notebooks run while the pages are built: their pictures are part of them.
docs: $(VENV)/.test
	MFGJAX_DOCS_NOTEBOOKS=force $(BIN)/sphinx-build -W --keep-going -b html docs out/docs
	@echo "open out/docs/index.html"

bench: $(VENV)/.test
	$(PIP) --group bench
	$(BIN)/python -m benchmarks $(NAMES)

readme: demo
	mkdir -p docs/figures
	for run in out/demo/*/; do cp $$run/trajectory.png docs/figures/$$(basename $$run).png; done
	$(BIN)/python -m benchmarks.pages

train: $(VENV)/.test
	$(BIN)/python extract/training/train_olmoe.py --out $(RUN) $(ARGS)

bundle: $(VENV)/.test
	PATH=$(abspath $(BIN)):$$PATH python extract/training/bundle.py $(RUN) mfgjax/bundled/$(notdir $(RUN))

clean:
	rm -rf $(VENV) .venv-transformers-* out
