# `make demo` and `make test` do all the set-up themselves. `make help` lists the rest.
SHELL := /bin/bash
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help setup demo world test lint format types layers lock lock-check clean

help: ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## .venv with the locked dependencies
	@ops/setup/python.sh

demo: setup ## The whole pipeline on an embedded broker and a mail world of its own (ARGS=... for more)
	@$(BIN)/mailvet demo $(ARGS)

world: setup ## That mail world alone, for any verifier to be tried on
	@$(BIN)/mailvet world $(ARGS)

test: setup lint types layers ## Everything: lint, types, layers, all tests on a real Kafka, coverage thresholds
	@ops/setup/broker.sh
	@rm -f .coverage .coverage.*
	@status=0; $(BIN)/python -m coverage run -m pytest $(ARGS) || status=$$?; \
	$(BIN)/python -m coverage combine -q && $(BIN)/python -m coverage json -q -o .coverage.json && \
	$(BIN)/python -m ops.coverage_gate .coverage.json && exit $$status

lint: setup ## ruff, hadolint
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/hadolint Dockerfile

types: setup ## mypy, strict
	@$(BIN)/mypy

layers: setup ## Imports go one way
	@$(BIN)/lint-imports

format: setup ## Put the code into shape
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

LOCK := $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header

lock: setup ## Renew both lock files (UPGRADE=1 takes newer versions)
	@$(LOCK) --extra demo --group dev $(if $(UPGRADE),--upgrade) -o requirements.lock
	@$(LOCK) --constraint requirements.lock $(if $(UPGRADE),--upgrade) -o requirements-runtime.lock

lock-check: setup ## Show what the lock files lack of pyproject.toml
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && cp requirements*.lock "$$folder" && \
	$(LOCK) --extra demo --group dev -o "$$folder/requirements.lock" && \
	$(LOCK) --constraint requirements.lock -o "$$folder/requirements-runtime.lock" && \
	diff -u requirements.lock "$$folder/requirements.lock" && \
	diff -u requirements-runtime.lock "$$folder/requirements-runtime.lock" && echo "the lock files are up to date"

clean: ## Everything that can be made again
	rm -rf .venv .kafka .coverage* htmlcov .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
