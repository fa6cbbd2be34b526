# Thin on purpose: what each target does is in scripts/setup.sh.
# ARGS goes to the command, for instance: make up ARGS="--port 8010 --state-dir /srv/second"
PYTHON ?= python3
ARGS ?=
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help up test unit check lock image bench chaos fuzz pictures clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: ## set everything up and run it; with no configuration, with a homeserver of its own
	@exec scripts/setup.sh up $(ARGS)

test: ## set up what the tests need and run all of them (about 20 minutes)
	@exec scripts/setup.sh test $(ARGS)

unit: ## only the tests that need nothing but Python, with their coverage
	@exec scripts/setup.sh unit $(ARGS)

check: ## format, lint, types, imports, shell scripts
	@exec scripts/setup.sh check

image: ## build the runner image
	@exec scripts/setup.sh image $(ARGS)

lock: ## write the lock files anew from pyproject.toml
	@scripts/setup.sh dev
	@exec scripts/lock.sh

bench: ## what is measured, and how to run it
	@exec scripts/long.sh

chaos: ## kill, cut and flood for long; ARGS="--kills 1000" for more kills than 100
	@exec scripts/setup.sh chaos $(ARGS)

fuzz: ## fuzz what reads a room, a minute each; ARGS="wire -max_total_time=3600" for one target
	@exec scripts/setup.sh fuzz $(ARGS)

pictures: ## take the pictures of docs/pictures anew, from a real room
	@exec scripts/setup.sh pictures $(ARGS)

clean: ## remove what make made here; a state directory and the engine's images stay
	rm -rf .venv .cache tests/web/node_modules .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage
