# Flawscribe: `make help` lists the commands.
PORT ?= 8000
HOST ?= 127.0.0.1
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# A CPU build of PyTorch: plain `torch` from PyPI brings gigabytes of CUDA. CUDA users: make test TORCH='torch>=2.9,<3' TORCH_INDEX=
TORCH ?= torch==2.13.0
TORCH_INDEX ?= --extra-index-url https://download.pytorch.org/whl/cpu

.DEFAULT_GOAL := help
.PHONY: help serve test lint format openapi example clean

help: ## list the commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

serve: $(VENV)/.serve ## serve the bundled model on http://127.0.0.1:$(PORT)
	@exec $(BIN)/flawscribe serve --host $(HOST) --port $(PORT)

test: $(VENV)/.dev lint ## lint, type-check and run all tests
	$(BIN)/pytest

lint: $(VENV)/.dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

openapi: $(VENV)/.dev ## write openapi.json and the README's tables anew
	$(BIN)/python -m tests.documents

example: $(VENV)/.dev ## ask the bundled model anew for the README's answer and picture
	$(BIN)/python -m tests.example

clean: ## remove the environment and what tests left
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Flawscribe needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.serve: pyproject.toml | $(VENV)/bin/python
	$(PIP) -e .
	@touch $@

# torch alone first, from local wheels where pip is told of some, else from PyTorch's own index, which has CPU builds
$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	@$(BIN)/python -c 'import torch' 2>/dev/null || $(PIP) --no-deps --no-index '$(TORCH)' 2>/dev/null || \
	  $(PIP) --no-deps --retries 2 $(TORCH_INDEX) '$(TORCH)'
	$(PIP) -e '.[train,dev,postgres]'
	@touch $@ $(VENV)/.serve
