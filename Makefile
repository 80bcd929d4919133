# Two commands do everything on a fresh machine with Python 3.10 or newer: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
EXTRA ?= dev
WORKERS ?= 2
ONNXRUNTIME_WEB ?= 1.30.0
BIN = $(VENV)/bin

.PHONY: demo test test-all test-oldest test-open-clip test-web lint layers setup docs campaign lock audit licenses clean

demo: $(VENV)/.ready
	$(BIN)/steadyclip demo

# the quick set; tests/heavy.txt says what it leaves out
test: layers
	$(BIN)/python -m pytest -n $(WORKERS) -m "not heavy and not slow"

test-all: layers
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

# the quick set on the oldest versions that pyproject.toml allows, in an environment of their own, without the linters
test-oldest:
	$(MAKE) setup VENV=$(VENV)-oldest CONSTRAINTS=constraints-oldest.txt EXTRA=test
	$(VENV)-oldest/bin/python -m pytest -n $(WORKERS) -m "not heavy and not slow and not newest"

# open_clip needs a torchvision that fits torch, so that it has an environment of its own, with the newest of both
test-open-clip:
	test -x $(VENV)-open-clip/bin/python || $(PYTHON) -m venv $(VENV)-open-clip
	grep -v "^torch==" $(CONSTRAINTS) > $(VENV)-open-clip/constraints.txt
	$(VENV)-open-clip/bin/python -m pip install --quiet -e ".[test,open-clip]" -e ./lab -c $(VENV)-open-clip/constraints.txt
	$(VENV)-open-clip/bin/python -m pytest tests/deploy/test_openclip_export.py tests/models/test_openclip.py

# the export for a browser, in a browser: npm and Chromium are needed
test-web: $(VENV)/.ready-dev
	npm install --silent --no-audit --no-fund --prefix $(VENV)-web onnxruntime-web@$(ONNXRUNTIME_WEB)
	STEADYCLIP_ONNXRUNTIME_WEB=$(VENV)-web/node_modules/onnxruntime-web $(BIN)/python -m pytest tests/deploy/test_page.py

layers: $(VENV)/.ready-dev
	$(BIN)/lint-imports --no-logo --no-cache

lint: layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

setup: $(VENV)/.ready-dev

# kills, full disks, damaged inputs; goes on where it was stopped (tests/campaign, docs/trust.md)
campaign: $(VENV)/.ready-dev
	nice $(BIN)/python tests/campaign/campaign.py

# constraints.txt from what is installed; `make clean lock CONSTRAINTS=/dev/null` installs the newest versions first
lock: $(VENV)/.ready-dev
	$(BIN)/python .ci/lock.py

# known vulnerabilities of what constraints.txt pins
audit: $(VENV)-audit/.ready
	$(VENV)-audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict --progress-spinner off

# the license of everything that is installed
licenses: $(VENV)-audit/.ready $(VENV)/.ready-dev
	$(VENV)-audit/bin/pip-licenses --python $(BIN)/python --order license --format markdown

$(VENV)-audit/.ready:
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet pip-audit==2.10.1 pip-licenses==5.5.5
	touch $@

$(VENV)/bin/python:
	$(PYTHON) -c "import sys; sys.exit('Python 3.10 or newer is needed: make PYTHON=python3.11 ...' if sys.version_info < (3, 10) else 0)"
	$(PYTHON) -m venv $(VENV)

# torch first, at the tested version: its pin decides which build the rest resolves to
$(VENV)/.ready: $(VENV)/bin/python pyproject.toml lab/pyproject.toml $(CONSTRAINTS)
	$(BIN)/python -m pip install --quiet "torch" -c $(CONSTRAINTS)
	$(BIN)/python -m pip install --quiet -e . -e ./lab -c $(CONSTRAINTS)
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet -e ".[$(EXTRA)]" -e ./lab -c $(CONSTRAINTS)
	touch $@

# the documentation as a site, in site/; a broken link is an error
docs: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet -e ".[docs]" -e ./lab -c $(CONSTRAINTS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-open-clip $(VENV)-web $(VENV)-audit runs site
