# Two commands for people: `make demo` and `make test`. Everything lands in .venv, nothing outside this folder.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
export OMP_WAIT_POLICY ?= passive

.PHONY: help demo test lint format clean

help:
	@echo "make demo    learn from one undersampled slice: runs/demo/report.html (about 5 minutes on 2 cores)"
	@echo "make test    the whole test suite"
	@echo "make lint    ruff, mypy, import contracts"
	@echo "make format  ruff format"
	@echo "make clean   remove .venv and caches, keep runs/"

# PyTorch goes first and pinned, so that a machine without a GPU gets the build it needs and nothing replaces it.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/.ready
	$(BIN)/sansref demo

test: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
