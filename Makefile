# The commands of Delivery Lab. `make` alone lists them. Everything is installed into .venv; nothing else is touched.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
COMPILE := -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate
# The first Python on PATH that the lab runs on; `make setup PYTHON=...` chooses another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && { echo $$p; break; }; done)

# uv draws its progress on a terminal, and names every package where there is none.
QUIET = $(shell test -t 2 || echo -q)
OFFLINE = { echo "not everything could be installed (why is said above): if the network was away, connect and say it again, it goes on from there"; exit 1; }

.PHONY: help setup demo test check format up down lock clean proof blackout soak crash docs storms boards shots

help: ## list the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(VENV)/.runtime ## make .venv with what the lab runs on (the CLI is .venv/bin/lab)

demo: setup ## the tour: every arm under load and kills, and the verdict; the lab stays up
	@$(BIN)/lab demo

up: setup ## start the lab and leave it running
	@$(BIN)/lab up

down: setup ## end the lab; its data stays
	@$(BIN)/lab down

proof: setup ## every scenario but the long ones once, from where it stopped; docs/proof.json keeps the verdicts
	@$(BIN)/python -m loadtest.proof; proved=$$?; $(BIN)/lab down; $(BIN)/python -m lab.semantics; exit $$proved

blackout: setup ## five minutes of load without trace store and Prometheus: nothing slows down or grows, data comes again
	@$(BIN)/lab up && $(BIN)/python -m loadtest.blackout

soak: setup ## 100 requests a second for ten minutes: the outbox stays empty, no process grows
	@$(BIN)/lab up && $(BIN)/python -m loadtest.soak

storms: setup ## the long proofs that have not been seen to hold yet, one after another; docs/storms.md says what was seen
	@$(BIN)/python -m loadtest.storms

crash: setup ## every failpoint x every process killed, drained, audited (half an hour; goes on where it stopped)
	@$(BIN)/python -m loadtest.crash

test: check ## the whole suite, on real parts that it starts itself
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder

check: $(VENV)/.dev ## ruff, mypy (strict), import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev ## format and sort imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

boards: $(VENV)/.dev ## make dashboards/generated from the code
	$(BIN)/python -m dashboards.generate

shots: $(VENV)/.dev ## pictures of the boards of the running lab into docs/boards
	$(BIN)/python -m dashboards.screenshots

docs: $(VENV)/.runtime ## make docs/reference.md, docs/semantics.md and docs/telemetry.md from the code
	$(BIN)/python -m lab.reference
	$(BIN)/python -m dashboards.page
	$(BIN)/python -m lab.semantics
	$(BIN)/python -m lab.numbers

lock: $(VENV)/.dev ## resolve requirements/ anew from pyproject.toml
	$(BIN)/uv pip compile $(COMPILE) --group pyproject.toml:bootstrap -o requirements/bootstrap.txt
	$(BIN)/uv pip compile $(COMPILE) pyproject.toml -o requirements/runtime.txt
	$(BIN)/uv pip compile $(COMPILE) pyproject.toml --group dev -c requirements/runtime.txt -o requirements/dev.txt

clean: ## remove .venv (data in .lab stays)
	rm -rf $(VENV)

# uv installs in seconds what takes pip minutes; it is itself pinned by hash.
$(VENV)/.uv: requirements/bootstrap.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 to 3.13 with its venv module is needed (Debian: apt install python3-venv)"; exit 2; }
	@echo "making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt || $(OFFLINE)
	@touch $@

$(VENV)/.runtime: $(VENV)/.uv requirements/runtime.txt pyproject.toml
	@echo "installing what the lab runs on (about 250 MB, once)"
	@$(BIN)/uv pip install $(QUIET) --compile-bytecode --python $(BIN)/python --require-hashes -r requirements/runtime.txt || $(OFFLINE)
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e . || $(OFFLINE)
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements/dev.txt
	@$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r requirements/dev.txt || $(OFFLINE)
	@touch $@
