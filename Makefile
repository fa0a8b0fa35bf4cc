# Every target does its own set-up: a fresh clone needs Python 3.11 or later and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
RECIPE ?= light
# What a run installs: TensorFlow only for the recipe that learns with it.
RUN_LOCK := $(if $(filter lstm-vgg16,$(RECIPE)),requirements/keras.txt,requirements.txt)

.DEFAULT_GOAL := help
.PHONY: help run setup check test test-full soak bench env-example lock clean

help:  ## Show this list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

run: $(VENV)/.run-$(notdir $(RUN_LOCK))  ## Import a catalogue, train, evaluate and serve it on http://127.0.0.1:8000.
	$(BIN)/aisle run --recipe $(RECIPE) $(if $(WEIGHTS),--weights $(WEIGHTS))

setup: $(VENV)/.dev  ## Everything for development, in .venv.

check: $(VENV)/.dev  ## Lint, formatting, types, the direction of imports, generated files.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m aisle.settings | diff - .env.example
	! grep -HnE 'https?://|index-url|find-links' requirements.txt requirements/*.txt

test: $(VENV)/.dev  ## The tests of every commit, in minutes.
	$(BIN)/pytest -m "not slow and not soak"

test-full: $(VENV)/.dev  ## What is slow, or needs an engine, a browser or a cluster.
	$(BIN)/pytest -m "slow and not soak"

soak: $(VENV)/.dev  ## Long runs, by hand.
	$(BIN)/pytest -m soak --timeout 3600

bench: $(VENV)/.dev  ## What the pages of figures state, measured on this machine.
	$(BIN)/python -m benchmarks

env-example: $(VENV)/.dev  ## Write .env.example from the settings.
	$(BIN)/python -m aisle.settings > .env.example

LOCK := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
  --custom-compile-command "make lock" --quiet
WHOLE := --extra serve --extra versions --group build
lock: $(VENV)/.dev  ## Write the locks anew from pyproject.toml, without any registry's address.
	$(LOCK) pyproject.toml --extra train $(WHOLE) -o requirements.txt
	$(LOCK) pyproject.toml --extra keras $(WHOLE) -c requirements.txt -o requirements/keras.txt
	$(LOCK) pyproject.toml --extra keras $(WHOLE) --group dev -c requirements/keras.txt -o requirements/dev.txt
	for image in auth serve data predict; do \
	  $(LOCK) pyproject.toml --extra $$image -c requirements.txt -o requirements/$$image.txt || exit; done
	$(LOCK) pyproject.toml --extra keras -c requirements/keras.txt -o requirements/train.txt
	$(LOCK) --group build -c requirements.txt -o requirements/build.txt
	$(LOCK) pyproject.toml --extra bentoml --group build -o requirements/bentoml.txt
	$(subst --universal,,$(LOCK)) --group airflow -o requirements/airflow.txt
	$(LOCK) --group deploy -o requirements/deploy.txt

clean:  ## Remove what was built; data, models and logs stay.
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("aisle needs Python 3.11 or later: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)

# A dev environment holds everything that a run needs, so that one of the two stamps is enough.
$(VENV)/.run-%.txt: $(RUN_LOCK) pyproject.toml | $(BIN)/python
	test -e $(VENV)/.dev || $(PIP) --require-hashes -r $(RUN_LOCK)
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@

# Tools that want an environment of their own: .venv-deploy looks at containers, manifests and workflows.
.venv-%/.ready: requirements/%.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements/$*.txt
	touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml | $(BIN)/python
	$(PIP) --require-hashes -r requirements/dev.txt
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@
