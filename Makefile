# Everything a person or CI does with this repository. `make` alone lists the commands.
#
# PYTHON  the interpreter; each one gets a virtual environment of its own, made once and reused
# ARGS    more arguments for pytest:  make test ARGS="-k arena -x"
# ONCE    make demo ONCE=1 stops after the sample pictures
# ONLY    make bench ONLY=memory measures a part

PYTHON ?= python3
ARGS ?=
ONCE ?=
ONLY ?=

VENV := $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
RUN := $(VENV)/bin/python -m
# The browser that the tests of the example's page drive.
DEBIAN_PACKAGES := chromium chromium-driver
TYPED := $(wildcard fastapi_aqueduct tests example_app)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-long bench pytest lint layers types docs clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.group-example ## start the example application and read its sample pictures (ONCE=1: then stop)
	@$(RUN) example_app $(if $(filter-out 0,$(ONCE)),--once)

test: lint layers types pytest ## everything CI asks for, the quick checks first

pytest: $(VENV)/.group-dev $(VENV)/.debian-packages
	@echo "==> tests"
	@$(RUN) pytest $(ARGS)

test-long: $(VENV)/.group-dev $(VENV)/.debian-packages ## the tests that take minutes
	@$(RUN) pytest -m long --timeout 900 -o faulthandler_timeout=1200 $(ARGS)

bench: $(VENV)/.group-bench ## measure speed and memory (ONLY=throughput, memory or worker)
	@ONLY=$(ONLY) $(RUN) tests.benchmarks

lint: $(VENV)/.group-dev ## ruff
	@echo "==> lint"
	@$(RUN) ruff check --quiet

layers: $(VENV)/.group-dev ## who may import whom
	@echo "==> layers"
	@report=$$($(VENV)/bin/lint-imports --no-logo --no-cache) || { echo "$$report"; exit 1; }

types: $(VENV)/.group-dev ## mypy --strict
	@echo "==> types"
	@$(RUN) mypy --no-error-summary $(TYPED)

docs: $(VENV)/.group-docs ## build the documentation into site/
	@$(VENV)/bin/zensical build --strict --clean

clean: ## remove the environments and everything that was built
	@rm -rf .venv .venv-* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .cache site dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment whose interpreter has been removed or upgraded away is made anew, with all its stamps.
$(shell test -x $(VENV)/bin/python || rm -rf $(VENV))

$(VENV)/pyvenv.cfg:
	@python=$$(.ci/python "$(PYTHON)") && echo "==> $(VENV): $$("$$python" --version), $$python" && \
		"$$python" -m venv --clear $(VENV)

# One stamp for each dependency group of pyproject.toml. `pip install --group` came with pip 25.1.
$(VENV)/.group-%: pyproject.toml $(VENV)/pyvenv.cfg
	@echo "==> $(VENV): installing the package and its '$*' group"
	@$(RUN) pip install --quiet --disable-pip-version-check 'pip>=25.1'
	@$(RUN) pip install --quiet --disable-pip-version-check --group $* --editable .
	@touch $@

# Without them the tests still run: those that need a browser say so themselves.
$(VENV)/.debian-packages: Makefile | $(VENV)/pyvenv.cfg
	@if .ci/debian-packages $(DEBIAN_PACKAGES); then touch $@; fi
