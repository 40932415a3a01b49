# Every target makes the environment first; nothing but python3 and make is needed.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check format docs docs-write wheel bench constraints clean

PYTHON := .venv/bin/python
BASE := .venv/.installed
EXTRAS := .venv/.installed-extras

help: ## say what can be made
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

$(BASE): pyproject.toml constraints.txt scripts/environment.sh
	scripts/environment.sh
	touch $@

$(EXTRAS): $(BASE)
	scripts/environment.sh metaworld robotics tensorboard wandb
	touch $@

demo: $(BASE) ## record, train, evaluate and show a reward: runs/demo/report.html
	.venv/bin/vidreward demo

test: $(BASE) ## the tests, without the slow ones
	$(PYTHON) -m pytest

test-slow: $(EXTRAS) ## kill tests, browser, whole command line, Meta-World
	$(PYTHON) -m pytest -m slow

check: $(BASE) ## format, lint, types
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

format: $(BASE) ## put the code into the house format
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

docs: $(BASE) ## check the pages: links, the tree of the README, examples
	$(PYTHON) scripts/check_docs.py

docs-write: $(BASE) ## copy the files that pages include into them
	$(PYTHON) scripts/check_docs.py --write

wheel: ## build the wheel and use it in an environment of its own
	scripts/check_wheel.sh

bench: $(BASE) ## speed, as ratios measured in one run
	$(PYTHON) benchmarks/run.py

constraints: ## resolve the newest versions of everything into constraints.txt
	uv=$$(scripts/environment.sh --uv | tail -1); \
	$$uv pip compile --quiet --universal --upgrade --no-annotate --no-header \
		pyproject.toml --group dev --all-extras --output-file constraints.txt

clean: ## remove the environment and caches, not runs/
	rm -rf .venv .uv .mypy_cache .pytest_cache .ruff_cache .hypothesis dist build
