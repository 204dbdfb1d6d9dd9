# Everything here also runs without make: see what a target calls. `make` alone prints the targets.
.DEFAULT_GOAL := help
.PHONY: help setup kernel build lint type format lock audit test test-all test-unit test-integration test-crash sanitize fuzz hostile simulate torture ddl-torture mutations load golden bench bench-apply image-test demo up down clean release-check
MAKEFLAGS += --no-print-directory

PY := .venv/bin/python
DEMO_SECONDS ?= 60
FUZZ_SECONDS ?= 60
HOSTILE_ROUNDS ?= 20
LOAD_SECONDS ?= 60
SIMULATE_SECONDS ?= 60
TORTURE_SECONDS ?= 180
DDL_SECONDS ?= 180
# further arguments for pytest, as in: make test-unit ARGS="-k gtid -x"
ARGS ?=
# test processes side by side, each with servers of its own: one more than processors, for half of a test is waiting; four at
# most. 0 is none but pytest itself.
JOBS ?= $(shell expr $$(nproc) + 1)
PYTEST := $(PY) -m pytest -n $(JOBS) --maxprocesses 4 --dist worksteal

help: ## print this list
	@echo "make TARGET, where TARGET is"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## fetch what is missing: compiler, headers, database servers, .venv; compile the kernel where it changed
	@tools/bootstrap

kernel: ## .venv and the compiled modules of cdc/binlog/kernel, no database servers
	@tools/bootstrap system venv kernel

build: setup ## build the wheel into dist/
	rm -rf build/lib* build/bdist* dist/*.whl
	$(PY) -m pip wheel -q --no-deps --no-build-isolation --wheel-dir dist .

lint: setup ## ruff: rules and format; cython-lint
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	PATH="$$PWD/.venv/bin:$$PATH" cython-lint cdc

type: setup ## mypy, strict
	$(PY) -m mypy

format: setup ## rewrite the sources to the format and the rules that ruff can mend
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

lock: setup ## resolve both lock files anew, with hashes
	tools/lock

audit: setup ## look up what the lock files pin among known advisories; exit code 3 where no advisory source can be reached
	tools/audit

test: lint type ## lint, types, and every test on servers in turn (the sample that CI runs); JOBS=2 side by side
	$(PYTEST) --sample $(ARGS)

test-all: lint type ## lint, types, and every test on every server; the last lines name them
	$(PYTEST) $(ARGS)

test-unit: setup ## tests that need no server
	$(PYTEST) -m "not integration and not crash" $(ARGS)

test-integration: setup ## tests on real servers
	$(PYTEST) -m "integration and not crash" $(ARGS)

test-crash: setup ## tests that kill processes and servers at named points
	$(PYTEST) -m crash $(ARGS)

sanitize: setup ## the kernel's tests under AddressSanitizer and UBSan
	tools/sanitize $(ARGS)

fuzz: setup ## random damage to real events for FUZZ_SECONDS (60) in all; ARGS="json rows" chooses targets
	$(PY) -m tests.fuzz --seconds $(FUZZ_SECONDS) $(ARGS)

hostile: setup ## servers that misbehave, and names that break out of SQL, HOSTILE_ROUNDS (20) rounds of chance each, with counts
	CDC_HOSTILE_ROUNDS=$(HOSTILE_ROUNDS) $(PY) -m pytest -q tests/unit/test_hostile_servers.py tests/integration/test_hostile_names.py $(ARGS)

simulate: setup ## the pipelines through crash schedules, thousands a minute, in simulated time, for SIMULATE_SECONDS (60); ARGS="--seed 7 --trace"
	$(PY) -m tests.simulation --seconds $(SIMULATE_SECONDS) $(ARGS)

torture: setup ## random writes and faults between real servers for TORTURE_SECONDS (180) a source; ARGS="--hours 1 --seed 7 --source mysql97"
	$(PY) -m tests.torture --seconds $(TORTURE_SECONDS) $(ARGS)

ddl-torture: setup ## random DDL and rows over many tables, with kills, for DDL_SECONDS (180) a source, with counts; CDC_DDL_SEED=11
	CDC_DDL_SECONDS=$(DDL_SECONDS) $(PY) -m pytest -q -s --timeout=$$(($(DDL_SECONDS) + 600)) tests/integration/test_ddl_random.py $(ARGS)

mutations: setup ## take out each mechanism that a promise rests on, and see its test fail (tens of minutes); ARGS="fence-epoch"
	$(PY) -m tests.mutations $(ARGS)

load: setup ## sysbench and a TPC-C-like mix for LOAD_SECONDS (60) each through a kill -9, then cdc verify; ARGS="--load tpcc --source mysql97"
	$(PY) -m tests.load --seconds $(LOAD_SECONDS) $(ARGS)

golden: setup ## capture tests/golden anew from private servers, then read the diff; ARGS="mysql97-ddl" chooses files
	$(PY) -m tests.golden.capture $(ARGS)

bench: setup ## readers of a log side by side, on both servers: a short set (docs/benchmarks.md has the rest)
	$(PY) -m benchmarks.decode --rounds 3 $(ARGS)

bench-apply: setup ## the service beside the sinks' own ways to load, and its delay at 500 transactions/s
	$(PY) -m benchmarks.apply $(ARGS)
	$(PY) -m benchmarks.latency

image-test: setup ## build the image and run it against real servers
	deploy/image-test

demo: setup ## private servers, a live writer, the service, a kill -9, the proof (DEMO_SECONDS=60, KEEP=1)
	@$(PY) -m cdc demo $(if $(KEEP),--keep) --seconds $(DEMO_SECONDS)

up: ## start the compose file: source, sinks, service, Prometheus (needs Docker)
	deploy/compose/make-secrets
	docker compose up --build --detach --wait

down: ## stop what `make up` started, and drop its volumes
	docker compose down --volumes

clean: ## remove what make made here (the servers, kept per machine, stay)
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis htmlcov .coverage
	find cdc -name '*.so*' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

release-check: test-all build ## all that must hold before a release is tagged
	tools/release-check
