# make serve   a chat server on 127.0.0.1:8080 (ARGS="--log-level debug" passes more, LISTEN="--port 0" replaces the address)
# make test    every check and every test
# make lint | types | docs | unit | more-pythons   the parts of it; docs leaves the documentation in build/docs
# make bench   roomhub and its peers measured, into docs/benchmarks.md (ARGS="endtoend --rounds 5" for one part; Linux)
# make soak    a crowd of v1 clients simulated, every guarantee checked after every step (ARGS="--seeds 1-9999 --steps 20000")
# make lock    the pinned dependencies anew (ARGS=--upgrade: to the newest)
# PYTHON=python3.13 picks the interpreter; otherwise the first of 3.11 or newer that starts.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:
.DEFAULT_GOAL := help

export PYTHON
VENV := .venv-test
LISTEN := --host 127.0.0.1 --port 8080
BIN := $(VENV)/bin/python
SOURCES := $(wildcard src tests benchmarks docs/conf.py)

.PHONY: help serve test lint types docs unit more-pythons bench soak lock clean test-venv node compiler

help:
	@sed -n 's/^# \(make\|PYTHON\)/\1/p' Makefile

serve:
	@.ci/venv .venv requirements/serve.txt
	@exec .venv/bin/python -m roomhub serve $(LISTEN) $(ARGS)

test: lint types docs unit more-pythons

lint: test-venv
	$(BIN) -m ruff check $(SOURCES)
	$(BIN) -m ruff format --check $(SOURCES)
	@# The locks pin by hash and name no place to fetch from.
	@! grep -nE '://|--(extra-)?index-url|--find-links' requirements/*.txt
	@! grep -nE '"resolved"' tests/node/package-lock.json benchmarks/peers/bun/package-lock.json

types: test-venv
	$(BIN) -m mypy --strict src tests
	@.ci/type-completeness $(VENV)

# What Sphinx warns of is an error, a name of roomhub's that no page explains among it.
docs: test-venv
	$(BIN) -m sphinx --builder html --fail-on-warning --keep-going --nitpicky --fresh-env --quiet docs build/docs

# A file that is run by itself: make unit ARGS=tests/core/test_room.py (then without the demand on coverage).
unit: test-venv node compiler
ifeq ($(ARGS),)
	$(BIN) -m coverage run -m pytest
	$(BIN) -m coverage report
else
	$(BIN) -m pytest $(ARGS)
endif

soak: test-venv
	$(BIN) -m tests.core.v1_simulation $(or $(ARGS),--seeds 1-200 --steps 5000)
	$(BIN) -m tests.core.store_simulation $(or $(ARGS),--seeds 1-200 --steps 5000)

more-pythons: test-venv node compiler
	@.ci/more-pythons $(BIN) 3.11 3.12 3.13

test-venv:
	@.ci/venv $(VENV) requirements/test.txt

node:
	@.ci/node

# The benchmarks' load generator is C, and the tests run it.
compiler:
	@command -v cc >/dev/null || .ci/system-package gcc libc6-dev

bench:
	@.ci/venv .venv-bench requirements/bench.txt
	@.venv-bench/bin/python -m benchmarks $(ARGS)

lock:
	@.ci/lock $(ARGS)

clean:
	rm -rf .venv .venv-* build dist {tests/node,benchmarks/peers/bun}/node_modules .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
