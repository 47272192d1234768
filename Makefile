# Everything is installed into $(VENV); `make clean` removes it.
PYTHON ?= python3
VENV ?= .venv
LOWEST_VENV ?= .venv-lowest
ifndef RUN
RUN := runs/demo-$(shell date +%Y%m%d-%H%M%S)
endif

BIN := $(VENV)/bin

.PHONY: install test test-all test-lowest lint format bench demo site dist clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "metarl needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# As many files at a time as there are cores, but not more than eight.
PARALLEL := -n auto --maxprocesses 8 --dist loadfile

test: install
	$(BIN)/python -m pytest -q $(PARALLEL) -m 'not slow'

test-all: install
	$(BIN)/python -m pytest -q $(PARALLEL)

# PyTorch of that age comes with gigabytes of CUDA libraries, unless pip is pointed at wheels without CUDA (README.md).
$(LOWEST_VENV)/.installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST_VENV)
	$(LOWEST_VENV)/bin/python -m pip install --quiet --constraint constraints-lowest.txt --editable '.[dev]'
	@touch $@

test-lowest: $(LOWEST_VENV)/.installed
	$(LOWEST_VENV)/bin/python -m pytest -q $(PARALLEL) -m 'not slow'

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Nothing else should run meanwhile; takes three quarters of an hour or more on two cores.
bench: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m benchmarks

demo: install
	$(BIN)/python -m metarl.train --env navigation --algo l2f --iterations 60 --run-dir $(RUN)
	$(BIN)/python -m metarl.evaluate $(RUN)
	$(BIN)/python -m metarl.plot $(RUN) --output demo.png
	$(BIN)/python -m metarl.record $(RUN)
	$(BIN)/python -m metarl.report $(RUN) --output demo.html
	@echo "The run is in $(RUN), its curve in $(CURDIR)/demo.png, its film in $(RUN)/recording, and all of it in the report $(CURDIR)/demo.html"

# build/site/index.html; a link that leads nowhere is an error.
site: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[site]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

dist: install
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) $(LOWEST_VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
