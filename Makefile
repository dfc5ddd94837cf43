# One environment, .venv. Stamps inside it remember what is installed, so a second run starts at once.

# The first of these that runs and can make an environment: a pyenv shim may be there and not work.
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
		>/dev/null 2>&1 && { echo $$python; break; }; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
EXTRAS := dev,docs,nano,train,reference,data,vision-train,video,serve,studio
ARGS ?=
# One test process per core, each with one compute thread; a file stays in one process.
WORKERS ?= auto

.DEFAULT_GOAL := help
.PHONY: demo test slow lint types format docs graph dist eval hooks clean help
.DELETE_ON_ERROR:

demo: .venv/core ## generate an image of an apple, then ask what it shows
	@mkdir -p out
	$(BIN)/emu3 image "a red apple, noto style" -o out/apple.png --seed 0
	$(BIN)/emu3 chat out/apple.png "What is this?"
	@echo "The image is in out/apple.png"

test: .venv/dev ## run the fast tests; make test ARGS="-k cache" runs some
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile $(ARGS)

slow: .venv/dev ## run the slow tests: processes, a browser, the README, the wheel
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: .venv/dev ## check style and the imports between packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/dev ## check types
	$(BIN)/mypy

format: .venv/dev ## fix style where a tool can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/dev ## build the documentation into site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

graph: .venv/dev ## draw the package graph of docs/architecture.md
	$(BIN)/python -m tools.package_graph

dist: .venv/dev ## build the sdist and the wheel in dist/, and check what they contain
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m tools.check_dist

eval: .venv/dev ## measure nano, the model that comes with the package
	$(BIN)/python -m recipes.nano.evaluate

hooks: .venv/dev ## check style and types before every commit
	$(BIN)/pre-commit install

clean: ## remove the environment, caches and built files; runs/ and out/ stay
	rm -rf .venv dist build site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .grimp_cache
	find src recipes benchmarks tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "needs Python 3.11 or newer with its venv module"; exit 1; }
	$(PYTHON) -m venv .venv

# torch first and alone, so that no other package decides its version.
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
