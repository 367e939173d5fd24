# The first command creates .venv and installs the packages; later ones reuse it.
#   make compare ARGS="mlp-mnist --epochs 1"      flags are passed on
#   make test PYTHON=/opt/python3.13/bin/python3  another interpreter, for the first set-up
#   make compare PIP_ARGS="--extra-index-url URL" an index of your own, e.g. the one of PyTorch's CPU builds

PYTHONS := $(or $(PYTHON),python3.11 python3)
PORT ?= 5000
ARGS ?=
PIP_ARGS ?=
export PIP_DISABLE_PIP_VERSION_CHECK = 1

VENV := .venv
RUN := $(VENV)/bin/python -m
READY := $(VENV)/.ready
INSTALL := $(RUN) pip install $$([ -t 1 ] || echo --quiet) --constraint requirements.lock $(PIP_ARGS) --editable
PLATFORMS := x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu aarch64-apple-darwin x86_64-pc-windows-msvc

.DEFAULT_GOAL := help
.PHONY: help compare test test-long notebooks docs lint format ui play lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s  %s\n", $$1, $$2 }' Makefile

compare: $(READY) ## train the presets in NumPy, JAX and PyTorch and report   ARGS="mlp-mnist --epochs 1"
	@$(RUN) compare.run_all $(ARGS)

test: $(VENV)/.test ## run the tests on two cores   ARGS="-k conv"   ARGS="-m slow"   ARGS="-n 0 -m perf"
	@$(RUN) pytest -n 2 --dist worksteal $(ARGS)

test-long: $(VENV)/.dev ## run the tests with multiple processes or devices, a browser or published networks
	@$(RUN) pytest -n 2 --dist worksteal -m "long and not (slow or perf)" $(ARGS)

notebooks: $(VENV)/.dev ## run every cell and every solution of notebooks/   ARGS="-k 04"
	@$(RUN) pytest tests/project/test_notebooks.py -m slow -n 2 $(ARGS)

docs: $(VENV)/.docs ## build the site into build/site: open its index.html; a broken link is an error
	@$(RUN) docs.collect
	@$(RUN) zensical build --clean --strict
	@$(RUN) compare.side_by_side --out build/site/side-by-side.html

lint: $(VENV)/.lint ## ruff, formatting and mypy over the whole project: the hooks of commit and push
	@$(RUN) pre_commit run --all-files
	@$(RUN) pre_commit run --all-files --hook-stage pre-push

format: $(VENV)/.lint ## format, and fix what ruff can fix
	@$(RUN) ruff check --fix
	@$(RUN) ruff format

ui: $(READY) ## open MLflow's page of the runs   PORT=5000
	@$(RUN) compare.tracking ui --port $(PORT)

play: $(READY) ## draw a digit in the browser and see the three tracks classify it   ARGS="--port 8080"
	@$(RUN) compare.play $(ARGS)

lock: $(VENV)/bin/python ## resolve the newest versions into requirements.lock, for each Python and platform
	@$(RUN) pip install --quiet uv
	@$(RUN) uv pip compile --quiet --universal --python-version 3.11 --upgrade --extra dev --extra docs --extra notebooks \
	  --no-annotate --custom-compile-command 'make lock' --output-file requirements.lock pyproject.toml > /dev/null
	@for python in 3.11 3.12 3.13; do for platform in $(PLATFORMS); do \
	  echo "resolving for Python $$python on $$platform"; \
	  MACOSX_DEPLOYMENT_TARGET=14.0 $(RUN) uv pip compile --quiet --python-version $$python --python-platform $$platform \
	    --only-binary :all: --no-binary promise --constraint requirements.lock \
	    --extra dev --extra docs --extra notebooks pyproject.toml > /dev/null || exit 1; \
	done; done
	@echo 'requirements.lock is updated: "make test" installs and tests it'

clean: ## remove .venv and caches; runs/ and checkpoints/ stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Pins are given as constraints: each platform installs what it needs of them, at the tested version.
$(READY): requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo 'Installing the versions of requirements.lock into $(VENV) (the first time some minutes and 7 GB)'
	@$(INSTALL) .
	@touch $@

$(VENV)/.%: $(READY)  # an extra of pyproject.toml
	@echo "Installing the packages of the extra $*"
	@$(INSTALL) '.[$*]'
	@touch $@

$(VENV)/bin/python:
	@for python in $(PYTHONS); do \
	  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || continue; \
	  "$$python" -c 'import ensurepip, venv' 2> /dev/null || { \
	    echo "$$python lacks the venv module: install it (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }; \
	  exec "$$python" -m venv --clear $(VENV); \
	done; \
	echo 'Python 3.11 or newer is needed; tried: $(PYTHONS).' >&2; \
	echo 'Install it, or give its path: make $(or $(MAKECMDGOALS),test) PYTHON=/path/to/python3' >&2; exit 1
