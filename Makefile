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
.PHONY: help serve dev test lint format openapi example lock clean

help: ## list the commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | sed 's/$$(PORT)/$(PORT)/' | expand -t 18

serve: $(VENV)/.serve ## serve the bundled model on http://127.0.0.1:$(PORT)
	@exec $(BIN)/flawscribe serve --host $(HOST) --port $(PORT)

dev: $(VENV)/.dev ## set up for training (PyTorch) and development

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

# What the images install, each file with its hash, for Debian 13's Python. CPU: ONNX Runtime's smaller build, also for arm64.
LOCK := $(BIN)/uv pip compile pyproject.toml --upgrade --quiet --no-header --no-annotate --generate-hashes --python-version 3.13
CUDA := --extra postgres --extra gpu --python-platform x86_64-manylinux_2_28
lock: $(VENV)/bin/python ## write the images' lock files in deploy/locks anew
	$(PIP) 'uv>=0.9,<1'
	$(LOCK) deploy/locks/cpu.in --extra postgres --extra openvino --universal --no-emit-package onnxruntime-gpu -o deploy/locks/cpu.txt
	$(LOCK) $(CUDA) -o deploy/locks/gpu.txt
	$(LOCK) $(CUDA) --extra train -o deploy/locks/train.txt
	$(subst pyproject.toml,,$(LOCK)) deploy/locks/build.in --universal -o deploy/locks/build.txt

clean: ## remove the environment and what tests left
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Flawscribe needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.serve: pyproject.toml | $(VENV)/bin/python
	$(PIP) -e '.[openvino]'
	@touch $@

# torch alone first, from local wheels where pip is told of some, else from PyTorch's own index, which has CPU builds
$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	@$(BIN)/python -c 'import torch' 2>/dev/null || $(PIP) --no-deps --no-index '$(TORCH)' 2>/dev/null || \
	  $(PIP) --no-deps --retries 2 $(TORCH_INDEX) '$(TORCH)'
	$(PIP) -e '.[train,dev,postgres]'
	@touch $@ $(VENV)/.serve
