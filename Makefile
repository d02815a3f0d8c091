# `make demo`, `make test` and `make test-slurm` do everything on a fresh machine; see README.md.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable
KILLS ?= 500
WORKERS ?= 4
TESTS ?= tests

# WORKERS: processes that the tests are divided over, each with a Slurm cluster of its own.
.PHONY: demo test test-slurm bench-quick soak packages lint clean

demo: $(VENV)/.installed
	$(BIN)/hpc-yolo data synth datasets/shapes
	$(BIN)/hpc-yolo submit configs/quickstart.yaml --local

test:
	$(MAKE) --no-print-directory -j 2 packages lint
	$(BIN)/pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder --cov --cov-report=
	$(BIN)/python tests/helpers/coverage_floors.py

# SLURM is 22.05, 24.11 or 26.05; QUICK=1 runs a selection; TESTS names files.
test-slurm: $(VENV)/.installed-for-tests
	@$(BIN)/python tests/helpers/slurm_root.py "$(SLURM)" \
		$(BIN)/pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder -m '$(if $(filter-out 0,$(QUICK)),slurm_quick,slurm and not soak)' $(TESTS)

# Prints what the benchmarks measure with little work, and fails only where one cannot run.
bench-quick: $(VENV)/.installed
	$(BIN)/hpc-yolo bench all --quick

soak: $(VENV)/.installed-for-tests packages
	KILLS=$(KILLS) $(BIN)/pytest -m 'soak or kills'

packages:
	sh tests/helpers/install_packages.sh

lint: $(VENV)/.installed-for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# Python compiles the fifth of the files that is imported; pip would compile all.
$(VENV)/.installed: setup.py pyproject.toml | $(VENV)/bin/python
	$(PIP_INSTALL) .
	touch $@

$(VENV)/.installed-for-tests: setup.py pyproject.toml | $(VENV)/bin/python
	$(PIP_INSTALL) '.[test]'
	touch $(VENV)/.installed $@

clean:
	rm -rf $(VENV) build dist *.egg-info .coverage* .mypy_cache .ruff_cache .pytest_cache
