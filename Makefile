# `make demo` and `make test` do all the set-up themselves. `make help` lists the rest.
SHELL := /bin/bash
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help setup demo world bench test chaos chaos-defects kill-to-work recovery soak flood lint format types layers lock lock-check clean

help: ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## .venv with the locked dependencies
	@ops/setup/python.sh

demo: setup ## The whole pipeline on an embedded broker and a mail world of its own (ARGS=... for more)
	@$(BIN)/mailvet demo $(ARGS)

world: setup ## That mail world alone, for any verifier to be tried on
	@$(BIN)/mailvet world $(ARGS)

bench: setup ## Speed and cost beside two peers, some minutes long; writes docs/benchmarks.md (needs Go, Cargo and root)
	@$(BIN)/mailvet bench engine --peer aftership --peer reacher --postfix --write docs/benchmarks.md $(ARGS)

test: setup lint types layers ## Everything: lint, types, layers, all tests on a real Kafka, coverage thresholds
	@ops/setup/broker.sh
	@ops/setup/mta.sh
	@rm -f .coverage .coverage.*
	@status=0; $(BIN)/python -m coverage run -m pytest -n 2 --dist loadgroup $(ARGS) || status=$$?; \
	$(BIN)/python -m coverage combine -q && $(BIN)/python -m coverage json -q -o .coverage-report.json && \
	$(BIN)/python -m ops.coverage_gate .coverage-report.json && exit $$status

chaos: setup ## Seeds of faults on a cluster of three, 10,000 addresses and 16 faults each: SEEDS=n, or SEED=17 again
	@ops/setup/broker.sh
	@MAILVET_CHAOS_SEEDS=$(SEEDS) MAILVET_CHAOS_SEED=$(SEED) MAILVET_CHAOS_ADDRESSES=$(or $(ADDRESSES),10000) \
	$(BIN)/python -m pytest -s tests/chaos/test_seeds.py $(ARGS)

chaos-defects: setup ## The same suite with our protection taken away: it has to find each defect
	@ops/setup/broker.sh
	@MAILVET_CHAOS_DEFECTS=1 $(BIN)/python -m pytest -s tests/chaos/test_planted.py $(ARGS)

kill-to-work: setup ## Seconds from kill -9 to processing again, for every role, with default settings
	@ops/setup/broker.sh
	@MAILVET_KILL_TO_WORK=$(or $(ROLE),all) $(BIN)/python -m pytest -s tests/chaos/test_kill_to_work.py $(ARGS)

soak: setup ## Many addresses through a process for each role: memory may not grow, nothing may be lost (ADDRESSES=n)
	@ops/setup/broker.sh
	@$(BIN)/mailvet bench soak --addresses $(or $(ADDRESSES),1000000) $(ARGS)

recovery: setup ## Seconds from kill -9 of a gate with 1,000,000 keys until it works again, alone and with a standby (KEYS=n)
	@ops/setup/broker.sh
	@MAILVET_RECOVERY_KEYS=$(or $(KEYS),1000000) $(BIN)/python -m pytest -s tests/chaos/test_recovery.py $(ARGS)

flood: setup ## Small requests beside a flood of 200,000 addresses
	@ops/setup/broker.sh
	@MAILVET_FLOOD_ADDRESSES=200000 $(BIN)/python -m pytest -s tests/integration/test_pipeline.py --timeout 900 $(ARGS)

lint: setup ## ruff, hadolint, and whether the synchronous pool is made of the asynchronous one
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python -m ops.unasync --check
	@$(BIN)/hadolint Dockerfile

types: setup ## mypy, strict
	@$(BIN)/mypy

layers: setup ## Imports go one way
	@$(BIN)/lint-imports

format: setup ## Put the code into shape
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/python -m ops.unasync

LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-header $(if $(UPGRADE),--upgrade)
# All for development; of that what runs, and what builds.
LOCK_ALL = $(LOCK) pyproject.toml --extra demo --group dev -o $(1)/requirements.lock && \
	$(LOCK) pyproject.toml --no-annotate --constraint $(1)/requirements.lock -o $(1)/requirements-runtime.lock && \
	$(LOCK) --group build --no-annotate --constraint $(1)/requirements.lock -o $(1)/requirements-build.lock

lock: setup ## Renew the lock files (UPGRADE=1 takes newer versions)
	@$(call LOCK_ALL,.)

lock-check: setup ## Show what the lock files lack of pyproject.toml
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && cp requirements*.lock "$$folder" && \
	$(call LOCK_ALL,$$folder) && \
	for lock in requirements*.lock; do diff -u "$$lock" "$$folder/$$lock" || exit 1; done && \
	echo "the lock files are up to date"

clean: ## Everything that can be made again
	rm -rf .venv .kafka .coverage* htmlcov .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
