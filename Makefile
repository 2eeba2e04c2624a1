# Everything runs from .venv, which is made here and remade when it is stale: its stamp holds a digest of
# the lock files, pyproject.toml, the interpreter and this directory, so a moved or copied .venv is found.
# Works in any directory, also one with spaces in its name: no target depends on an absolute path.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# The first interpreter that is new enough; override with PYTHON=…
ifeq ($(origin PYTHON),undefined)
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && exit; done; echo python3)
endif
ARGS ?=
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-header --no-emit-index-url

# Paths of tools are relative: `make` always runs in its own directory.
BIN := .venv/bin

define ensure_env
want="$$(cat requirements/*.txt pyproject.toml | sha256sum | cut -c1-32) $$($(PYTHON) -V 2>&1 || true) $(CURDIR)"; \
if [ "$$(cat .venv/stamp 2>/dev/null || true)" = "$$want" ] && $(BIN)/python -c '' 2>/dev/null; then exit 0; fi; \
if ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	echo "error: Python 3.11 or newer is needed, '$(PYTHON)' is $$($(PYTHON) -V 2>&1 || echo missing)." >&2; \
	echo "       Install one and run: make dev PYTHON=python3.11" >&2; exit 1; fi; \
echo "Making .venv with $$($(PYTHON) -V 2>&1) …"; \
rm -rf .venv; \
if ! $(PYTHON) -m venv .venv; then \
	echo "error: '$(PYTHON) -m venv' failed. On Debian: apt-get install python3-venv" >&2; exit 1; fi; \
$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
	-r requirements/bootstrap.txt; \
cache="$${UV_CACHE_DIR:-$${XDG_CACHE_HOME:-$$HOME/.cache}}"; \
[ "$$(stat -c %d .)" = "$$(stat -c %d "$$cache" 2>/dev/null || true)" ] || export UV_LINK_MODE=copy; \
$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements/bootstrap.txt requirements/dev.txt; \
$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .; \
echo "$$want" > .venv/stamp
endef

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | awk -F ':.*## ' '{ printf "  make %-9s %s\n", $$1, $$2 }'
	@echo "  ARGS=… is passed on, for example: make up ARGS=--detach"

.PHONY: dev
dev: ## Make or renew the environment in .venv
	@$(ensure_env)

.PHONY: fix
fix: dev ## Format, and apply safe fixes
	@$(BIN)/ruff check --fix $(ARGS)
	@$(BIN)/ruff format

.PHONY: lint
lint: dev ## Check style, types and layers
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

.PHONY: test
test: dev ## Run all tests in two processes (ARGS="tests/unit -q"); docs/testing.md
	@$(BIN)/pytest -n 2 --max-worker-restart 0 $(ARGS)

.PHONY: faults
faults: dev ## Break a running marketplace for half an hour: kills, stops, cuts, deployments under load
	@$(BIN)/pytest tests/cluster -m faults $(ARGS)

.PHONY: simulate
simulate: dev ## Simulate the order runtime under faults (ARGS="--seeds 500")
	@$(BIN)/marketplace simulate $(ARGS)

.PHONY: check
check: lint test ## What CI runs: lint and test

.PHONY: demo
demo: dev ## Start all, buy once and prove it, keep serving (ARGS=--exit stops after)
	@exec $(BIN)/marketplace demo $(ARGS)

.PHONY: up
up: dev ## Start all and serve until Ctrl-C (ARGS=--detach returns once ready)
	@exec $(BIN)/marketplace up $(ARGS)

.PHONY: down
down: dev ## Stop all, also what a killed launcher left
	@$(BIN)/marketplace down $(ARGS)

.PHONY: status
status: dev ## Show what runs
	@$(BIN)/marketplace status $(ARGS)

.PHONY: migrate
migrate: dev ## Apply migrations to the running database
	@$(BIN)/marketplace migrate $(ARGS)

.PHONY: bench
bench: dev ## Run the benchmarks, for example ARGS="grains --json"
	@exec $(BIN)/marketplace bench $(ARGS)

.PHONY: lock
lock: dev ## Resolve the lock files anew
	@$(BIN)/$(LOCK) -o requirements/run.txt pyproject.toml
	@$(BIN)/$(LOCK) --group dev -o requirements/dev.txt pyproject.toml
	@printf 'setuptools>=77\nuv>=0.13\n' | $(BIN)/$(LOCK) -o requirements/bootstrap.txt -

.PHONY: clean
clean: ## Stop all; remove its data, keys and caches (not .venv)
	@if [ -x $(BIN)/marketplace ]; then $(BIN)/marketplace clean --yes; fi
	@rm -rf var .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist
