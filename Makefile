# Thin on purpose: what each target does is in scripts/setup.sh.
# ARGS goes to the command, for instance: make up ARGS="--port 8010 --state-dir /srv/second"
PYTHON ?= python3
ARGS ?=
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help up test unit integration security check lint types package sbom licences secrets \
	vulnerabilities newest reproduce notes lock image bench chaos fuzz pictures clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: ## set everything up and run it; with no configuration, with a homeserver of its own
	@exec scripts/setup.sh up $(ARGS)

test: ## set up what the tests need and run all of them (25 to 45 minutes)
	@exec scripts/setup.sh test $(ARGS)

unit: ## only the tests that need nothing but Python, with their coverage
	@exec scripts/setup.sh unit $(ARGS)

integration: ## of `make test`: the tests on real parts, without those of security
	@exec scripts/setup.sh integration $(ARGS)

security: ## of `make test`: what a hostile room or runner tries
	@exec scripts/setup.sh security $(ARGS)

check: ## format, lint, types, imports, shell scripts
	@exec scripts/setup.sh check

lint: ## of `make check`: all but the types
	@exec scripts/setup.sh lint

types: ## of `make check`: the types
	@exec scripts/setup.sh types

image: ## build the runner image
	@exec scripts/setup.sh image $(ARGS)

package: ## build the wheel into dist/, and try it in an environment of its own
	@exec scripts/setup.sh package

sbom: ## what is in the wheel and in the runner image, as CycloneDX, into dist/
	@exec scripts/scan.sh sbom

licences: ## after sbom: the licences of all of it against scripts/licences.toml
	@exec scripts/scan.sh licences

secrets: ## is there a secret in the sources that is not known to be none?
	@exec scripts/scan.sh secrets $(ARGS)

vulnerabilities: ## known ones of the locked packages; 69 where no database can be asked
	@exec scripts/scan.sh vulnerabilities

newest: ## what breaks with the newest packages and CLI, and by which (30 to 60 minutes)
	@exec scripts/setup.sh newest $(ARGS)

reproduce: ## build the runner image twice without a cache, and say what differs
	@exec scripts/setup.sh reproduce $(ARGS)

notes: ## what the changelog says of a release; ARGS="v1.2.3", or what is not released yet
	@exec $(PYTHON) scripts/release_notes.py $(ARGS)

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
	rm -rf .venv .cache tests/web/node_modules tests/pipeline/node_modules .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage
