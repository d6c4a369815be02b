# Every target does its own set-up: a virtual environment in .venv with the pinned constraints.
# A second call finds the stamp fresh and starts at once.
# TORCH=2.11.0 does the same with another release of torch, in an environment of its own.
PYTHON ?= python3
TORCH ?=
VENV := .venv$(if $(TORCH),-torch-$(TORCH))
BIN := $(VENV)/bin
# A release of torch brings its own triton.
PINS := $(if $(TORCH),$(VENV)/constraints.txt,constraints.txt)
FILM ?= demo.mp4
STORY ?= fox-and-owl

# Where tensors are: elsewhere pyright sees as much.
TYPED := --jaxtyping-packages=shotstream,beartype.beartype \
  $(addprefix tests/,data diffusion evaluation model streaming text training vae video weights)
FAST := not slow and not browser and not gpu and not weights
SLOW := slow and not browser and not gpu and not weights

# Two cores: one thread per process keeps pytest's workers from fighting over them.
export TOKENIZERS_PARALLELISM := false
# Where it is set, every process of a test would compile all modules again, and pytest its assertions.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-fast test-typed test-slow test-browser check docs dist format clean

help:
	@echo 'make demo          write $(FILM), a film of 5 shots, with the embedded model'
	@echo 'make test          checks (format, lint, types, layers, spelling) and the fast tests'
	@echo 'make test-fast     the fast tests alone; TORCH=2.11.0 runs them with that release of torch'
	@echo 'make test-typed    the fast tests of what computes with tensors, every annotation checked as it runs'
	@echo 'make test-slow     the slow tests'
	@echo 'make test-browser  the studio in Chromium; SHOTSTREAM_PICTURES=DIR writes screenshots'
	@echo 'make check         the checks alone'
	@echo 'make docs          the documentation site, in build/site/index.html'
	@echo 'make dist          the wheel and the source distribution, in dist/'
	@echo 'make format        format and mend what can be mended by a tool'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'ShotStream needs Python 3.11 or newer: make PYTHON=python3.12 ...' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/constraints.txt: constraints.txt | $(BIN)/python
	sed -e '/^triton==/d' -e 's/^torch==.*/torch==$(TORCH)/' $< > $@

$(VENV)/.stamp-core: pyproject.toml $(PINS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c $(PINS) -e .
	@touch $@

# Of a hundred libraries few modules are ever imported: Python compiles those when they are.
$(VENV)/.stamp-dev: pyproject.toml $(PINS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-compile -c $(PINS) -e '.[dev]'
	@touch $@ $(VENV)/.stamp-core

demo: $(VENV)/.stamp-core
	$(BIN)/shotstream generate $(STORY) -o $(FILM) --overwrite

# Side by side: while tests wait, the checks, which take one core, go on.
test: $(VENV)/.stamp-dev
	@$(MAKE) --no-print-directory -j 2 check test-fast

test-fast: $(VENV)/.stamp-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m '$(FAST)' -n 2

test-typed: $(VENV)/.stamp-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m '$(FAST)' -n 2 $(TYPED)

# A file is one worker's: its tests share runs that take long to make.
test-slow: $(VENV)/.stamp-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m '$(SLOW)' -n 2 --dist loadfile --no-loadscope-reorder

test-browser: $(VENV)/.stamp-dev
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest -q -m browser

check: $(VENV)/.stamp-dev
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check

# Every warning is an error: a link that leads nowhere, a docstring that cannot be read. The variable silences an
# advertisement.
docs: $(VENV)/.stamp-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo 'make docs: build/site/index.html'

dist: $(VENV)/.stamp-dev
	$(BIN)/python -m hatchling build

format: $(VENV)/.stamp-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv* .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
