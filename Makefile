# Two commands do everything on a fresh machine with Python 3.10 or newer: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test lint setup clean

demo: $(VENV)/.ready
	$(BIN)/steadyclip demo

test: $(VENV)/.ready-dev
	$(BIN)/python -m pytest

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

setup: $(VENV)/.ready-dev

$(VENV)/bin/python:
	$(PYTHON) -c "import sys; sys.exit('Python 3.10 or newer is needed: make PYTHON=python3.11 ...' if sys.version_info < (3, 10) else 0)"
	$(PYTHON) -m venv $(VENV)

# torch first, at the tested version: its pin decides which build the rest resolves to
$(VENV)/.ready: $(VENV)/bin/python pyproject.toml lab/pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet "torch" -c constraints.txt
	$(BIN)/python -m pip install --quiet -e . -e ./lab -c constraints.txt
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet -e ".[dev]" -e ./lab -c constraints.txt
	touch $@

clean:
	rm -rf $(VENV) runs
