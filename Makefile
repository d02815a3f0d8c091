# `make demo`, `make test` and `make test-slurm` do everything on a fresh machine; see README.md.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
KILLS ?= 500
WORKERS ?= 4
TESTS ?= tests

# WORKERS: processes that the tests are divided over, each with a Slurm cluster of its own.
.PHONY: demo test test-slurm bench-quick soak lint clean

demo: $(VENV)/.installed
	$(BIN)/hpc-yolo data synth datasets/shapes
	$(BIN)/hpc-yolo submit configs/quickstart.yaml --local

test: $(VENV)/.installed-for-tests
	sh tests/helpers/install_packages.sh
	$(MAKE) --no-print-directory lint
	$(BIN)/pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder --cov --cov-report=
	$(BIN)/python tests/helpers/coverage_floors.py

# SLURM is 22.05, 24.11 or 26.05; QUICK=1 runs a selection; TESTS names files.
test-slurm: $(VENV)/.installed-for-tests
	@$(BIN)/python tests/helpers/slurm_root.py "$(SLURM)" \
		$(BIN)/pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder -m '$(if $(filter-out 0,$(QUICK)),slurm_quick,slurm and not soak)' $(TESTS)

# Prints what the benchmarks measure with little work, and fails only where one cannot run.
bench-quick: $(VENV)/.installed
	$(BIN)/hpc-yolo bench all --quick

soak: $(VENV)/.installed-for-tests
	sh tests/helpers/install_packages.sh
	KILLS=$(KILLS) $(BIN)/pytest -m 'soak or kills'

lint: $(VENV)/.installed-for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.py pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-for-tests: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .coverage* .mypy_cache .ruff_cache .pytest_cache
