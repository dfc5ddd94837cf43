# One environment, .venv. Stamps inside it remember what is installed, so a second run starts at once.

# The first of these that runs and can make an environment: a pyenv shim may be there and not work.
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
		>/dev/null 2>&1 && { echo $$python; break; }; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
EXTRAS := dev,emoji,train,reference,data,vision-train,video,serve,studio
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: demo test slow lint types format eval hooks clean help
.DELETE_ON_ERROR:

demo: .venv/core ## draw an apple, then ask what it is
	@mkdir -p out
	$(BIN)/emu3 image "a red apple, noto style" -o out/apple.png --seed 0
	$(BIN)/emu3 chat out/apple.png "What is this?"
	@echo "The picture is in out/apple.png"

test: .venv/dev ## run the tests but the slow ones; make test ARGS="-k layers" runs some
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

slow: .venv/dev ## run the slow ones: processes, a browser, what the README says
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: .venv/dev ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev ## check types
	$(BIN)/mypy

format: .venv/dev ## put style right where a machine can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

eval: .venv/dev ## measure nano, the model that comes with the package
	$(BIN)/emu3 eval nano

hooks: .venv/dev ## check style and types before every commit
	$(BIN)/pre-commit install

clean: ## remove the environment, caches and built packages; runs/ and out/ stay
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src recipes tests -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "needs Python 3.11 or newer with its venv module"; exit 1; }
	$(PYTHON) -m venv .venv

# torch first and alone, so that nothing else has a say in which torch it is.
.venv/torch: constraints.txt | .venv/bin/python
	@echo "Installing torch into .venv"
	$(PIP) torch
	@touch $@

.venv/core: pyproject.toml constraints.txt .venv/torch
	@echo "Installing emu3 into .venv"
	$(PIP) -e .
	@touch $@

.venv/dev: .venv/core
	@echo "Installing what tests and training need into .venv"
	$(PIP) -e ".[$(EXTRAS)]"
	@touch $@
