# `make help` lists what there is. Everything runs from a fresh clone with nothing but Python >= 3.11.

SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.pilotage-setup

# The first interpreter that answers and is new enough (a version manager's shim may exist and not answer).
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then echo $$p; break; fi; done)

# Where to look for torch besides the configured index, e.g. https://download.pytorch.org/whl/cpu: with it,
# the pin torch==2.13.0 resolves to the build for CPUs instead of the one with several GB of CUDA libraries.
TORCH_INDEX ?=
PIP_FLAGS := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

# Processes that share the tests' files among them; each computes with one thread.
WORKERS ?= 2

# Spinning OpenMP threads starve each other on a busy machine with two cores (measured: 16 times slower).
export OMP_WAIT_POLICY = PASSIVE
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench fuzz golden wheel-test clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | \
		while IFS='|' read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done
	@echo '  ARGS="..." is handed on to the command, e.g. make demo ARGS="runs/second --seed 1"'
	@echo '  TORCH_INDEX=https://download.pytorch.org/whl/cpu takes torch without CUDA where PyPI would bring it'

setup: $(STAMP)  ## a virtual environment in .venv with the exact versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "pilotage needs Python >= 3.11 and found none; name one: make PYTHON=/path/to/python3"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "no virtual environment could be made (on Debian or Ubuntu: apt-get install python3-venv)"; exit 1; }
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt -e '.[train,bnb,endpoint,serve,vqa,gym,household,dev]'
	@touch $@

demo: setup  ## teach the shipped nano model to plan from pixels, with a page at the end
	$(BIN)/pilotage demo $(ARGS)

lint: setup  ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

test: lint  ## ruff, pyright and every test, in WORKERS=2 processes
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

bench: setup  ## every benchmark, each against a peer in the same run
	@for script in benchmarks/[a-z]*.py; do \
		echo "== $$script"; $(BIN)/python $$script $(ARGS) || exit 1; done

fuzz: setup  ## 100,000 cases of anything through the answer grammar and the judge
	HYPOTHESIS_PROFILE=deep $(BIN)/python -m pytest tests/worlds/test_judge_cases.py $(ARGS)

golden: setup  ## a few steps and answers of every method, held bit for bit against those of a commit: FROM=<commit>
	@test -n "$(FROM)" || { echo "name what to hold it against: make golden FROM=<commit>"; exit 1; }
	rm -rf build/golden && git worktree prune && git worktree add --quiet --detach build/golden $(FROM)
	OMP_NUM_THREADS=1 PYTHONPATH=build/golden/src $(BIN)/python build/golden/tests/golden.py record build/golden.json
	git worktree remove --force build/golden
	OMP_NUM_THREADS=1 $(BIN)/python tests/golden.py check build/golden.json

wheel-test: setup  ## build the wheel, install it elsewhere, import every module
	$(BIN)/python -m pytest tests/test_package.py $(ARGS)

clean:  ## remove caches and builds; .venv and runs/ stay
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
