# Every target does its own set-up: a fresh clone needs Python 3.11 or later and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests run side by side, file by file. Of the linear algebra of each one thread is enough: with more, they wait for each
# other by spinning, which costs twice the time. Docker's engine is shared by the tests that need it, one after the other.
PYTEST := OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist loadscope
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
RECIPE ?= light
# What a run installs: TensorFlow only for the recipe that learns with it.
# (`full` learns in an environment of its own: make full-environment.)
RUN_LOCK := $(if $(filter lstm-vgg16,$(RECIPE)),requirements/keras.txt,requirements.txt)

# Compiled modules are kept, whatever the machine's habit is: without, each process compiles a thousand of them again, which
# is most of the start of a service.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run environment full-environment setup check check-deploy test test-full test-containers soak fuzz corpus bench \
  bench-check bench-rivals bento airflow audit sbom licences docs reference \
  secrets init-airflow start stop restart logs env-example lock clean

help:  ## Show this list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

run: $(VENV)/.run-$(notdir $(RUN_LOCK))  ## Import a catalogue, train, evaluate and serve it on http://127.0.0.1:8000.
	$(BIN)/aisle run --recipe $(RECIPE) $(if $(WEIGHTS),--weights $(WEIGHTS))

environment: $(VENV)/.run-$(notdir $(RUN_LOCK))

full-environment: .venv-full/.ready  ## What the recipe full learns with, in .venv-full; TORCH says which PyTorch.

setup: $(VENV)/.dev  ## Everything for development, in .venv.

check: $(VENV)/.dev  ## Lint, formatting, types, the direction of imports, generated files.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m aisle.settings | diff - .env.example
	! grep -HnE 'https?://|index-url|find-links' requirements.txt requirements/*.txt

test: $(VENV)/.dev  ## The tests of every commit, in minutes.
	$(PYTEST) -m "not slow and not soak"

check-deploy: $(VENV)/.dev .venv-deploy/.ready  ## Containers, manifests, workflows and scripts, by their linters.
	OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -m "not soak" $(addprefix tests/deploy/test_,files.py rules.py workflows.py kubernetes.py charts.py)

# Each of these wants an environment of its own; the tests call them as they are.
TOOLS := .venv-deploy/.ready .venv-airflow/.ready .venv-bentoml/.ready .venv-full/.ready
test-full: $(VENV)/.dev $(TOOLS)  ## What is slow, or needs an engine, a browser or a cluster.
	$(PYTEST) -m "slow and not soak"

test-containers: $(VENV)/.dev $(TOOLS)  ## Part of test-full: what is built, started and deployed, with a real Docker engine.
	OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -m "slow and not soak" tests/deploy

# What comes in from elsewhere (docs/security.md). The first needs a network.
audit: .venv-supply/.ready  ## Known holes in the locks that requirements/answered.toml does not answer.
	$(PYTHON) deploy/supply.py audit .venv-supply/bin/pip-audit requirements.txt $(sort $(wildcard requirements/*.txt))

sbom: $(VENV)/.dev .venv-supply/.ready  ## The bill of materials of the environment, CycloneDX, in data/reports/sbom.json.
	mkdir -p data/reports
	.venv-supply/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type application --output-reproducible \
	  --output-format JSON --output-file data/reports/sbom.json $(BIN)/python

licences: $(VENV)/.dev .venv-supply/.ready  ## The licence of every dependency; fails for one that pyproject.toml does not list.
	$(PYTHON) deploy/supply.py licences .venv-supply/bin/pip-licenses $(BIN)/python

soak: $(VENV)/.dev $(TOOLS)  ## Long runs, by hand: hours.
	$(BIN)/pytest -m soak --timeout 3600

# Each kind of input for so many seconds, one after the other; docs/security.md says what was found.
TARGETS ?= text image zip csv form bundle token
SECONDS ?= 120
FUZZ := PYTHONPATH=../../src:../.. ../../.venv-fuzz/bin/python -m tests.attacks.fuzz
fuzz: .venv-fuzz/.ready  ## Fuzz what reads what others send: TARGETS, each for SECONDS.
	mkdir -p data/fuzz
	cd data/fuzz && for target in $(TARGETS); do $(FUZZ) $$target -max_total_time=$(SECONDS) || exit; done

corpus: .venv-fuzz/.ready  ## Fuzz, and keep the shortest inputs that reach code of their own in tests/attacks/corpus.
	mkdir -p data/fuzz
	cd data/fuzz && for target in $(TARGETS); do \
	  mkdir -p $$target && $(FUZZ) $$target $$target -max_total_time=$(SECONDS) \
	    && PYTHONPATH=../.. ../../.venv-fuzz/bin/python -m tests.attacks.corpus $$target $$target || exit; done

bench: $(VENV)/.dev  ## What the pages of figures state, measured on this machine.
	$(BIN)/python -m benchmarks

bench-check: $(VENV)/.dev  ## Has anything become slower than benchmarks/accepted.json says? Part of test-full.
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.check

RIVALS := .venv-bentoml/.ready .venv-rivals/.ready .venv-rivals-mlserver/.ready
bench-rivals: $(VENV)/.dev $(RIVALS)  ## Serving beside other ways to serve (docs/performance.md).
	$(BIN)/python -m benchmarks.rivals

# A pinned uv on the path, or BentoML installs one.
bento: $(VENV)/.dev .venv-bentoml/.ready  ## Build the Bento, in data/bentoml.
	PATH="$(CURDIR)/$(BIN):$$PATH" PYTHONPATH=src BENTOML_HOME=$(CURDIR)/data/bentoml BENTOML_DO_NOT_TRACK=True \
	  .venv-bentoml/bin/bentoml build --bentofile deploy/bentoml/bentofile.yaml .

airflow: $(VENV)/.run-$(notdir $(RUN_LOCK)) .venv-airflow/.ready  ## Airflow for development, on http://127.0.0.1:8080.
	sh deploy/airflow/standalone.sh

# The containers, by Docker Compose; PROFILES="pipeline monitoring storage" starts more than Airflow beside the application.
PROFILES ?= pipeline
COMPOSE = AISLE_REVISION=$$(git log -1 --format=%H 2>/dev/null) docker compose $(PROFILES:%=--profile %)
secrets:  ## Write what is missing of the secrets to .env, each made up at random.
	sh deploy/secrets.sh .env

init-airflow: secrets  ## Once: the images, Airflow's database, its first administrator.
	$(COMPOSE) build
	$(COMPOSE) up --detach --wait airflow-postgres airflow-redis
	$(COMPOSE) run --rm airflow-init

start:  ## Start the application and the PROFILES, in containers.
	$(COMPOSE) up --detach --wait

stop:  ## Stop all containers; their volumes stay.
	docker compose --profile '*' stop

restart: stop start  ## Stop and start.

logs:  ## Follow the logs of all containers.
	docker compose --profile '*' logs --follow --tail 100

docs: .venv-docs/.ready  ## The documentation as a site, in site/; a broken link fails.
	.venv-docs/bin/zensical build --strict --clean

reference: $(VENV)/.dev  ## Write docs/reference from the code.
	$(BIN)/python deploy/reference.py docs/reference

env-example: $(VENV)/.dev  ## Write .env.example from the settings.
	$(BIN)/python -m aisle.settings > .env.example

LOCK := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
  --custom-compile-command "make lock" --quiet
WHOLE := --extra serve --extra versions --group build
lock: $(VENV)/.dev  ## Write the locks anew from pyproject.toml, without any registry's address.
	$(LOCK) pyproject.toml --extra train $(WHOLE) -o requirements.txt
	$(LOCK) pyproject.toml --extra keras $(WHOLE) -c requirements.txt -o requirements/keras.txt
	$(LOCK) pyproject.toml --extra keras --extra ray $(WHOLE) --group dev -c requirements/keras.txt -o requirements/dev.txt
	for image in auth serve data predict; do \
	  $(LOCK) pyproject.toml --extra $$image -c requirements.txt -o requirements/$$image.txt || exit; done
	$(LOCK) pyproject.toml --extra keras -c requirements/keras.txt -o requirements/train.txt
	$(LOCK) pyproject.toml --extra ray -c requirements/dev.txt -o requirements/ray.txt
	$(LOCK) --group image -c requirements/dev.txt -o requirements/image.txt
	$(LOCK) pyproject.toml --extra bentoml --group build -o requirements/bentoml.txt
	$(subst --universal,,$(LOCK)) --group airflow -o requirements/airflow.txt
	$(subst --universal,,$(LOCK)) pyproject.toml --extra model --group rivals -c requirements.txt -o requirements/rivals.txt
	$(subst --universal,,$(LOCK)) pyproject.toml --extra model --group rivals-mlserver -o requirements/rivals-mlserver.txt
	$(LOCK) --group deploy -o requirements/deploy.txt
	$(LOCK) --group supply -o requirements/supply.txt
	$(LOCK) pyproject.toml --extra serve --extra data --group fuzz -c requirements.txt -o requirements/fuzz.txt
	$(LOCK) --group docs -o requirements/docs.txt
	echo "torch; sys_platform == 'none'" | $(LOCK) pyproject.toml --extra full --group build -c requirements.txt \
	  --override - --no-emit-package torch -o requirements/full.txt

clean:  ## Remove what was built; data, models and logs stay.
	rm -rf $(VENV) site .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("aisle needs Python 3.11 or later: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)

# A dev environment holds everything that a run needs, so that one of the two stamps is enough.
$(VENV)/.run-%.txt: $(RUN_LOCK) pyproject.toml | $(BIN)/python
	test -e $(VENV)/.dev || $(PIP) --require-hashes -r $(RUN_LOCK)
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@

# Tools that want an environment of their own: .venv-deploy looks at containers, manifests and workflows.
.venv-%/.ready: requirements/%.txt | $(VENV)/.dev
	$(PYTHON) -m venv .venv-$*
	$(BIN)/uv pip install --quiet --require-hashes --python .venv-$* -r requirements/$*.txt
	touch $@

# PyTorch is not in the lock: which build of it is right, for a CPU or which kind of GPU, only the machine knows. pip takes
# what it is configured to find.
TORCH ?= torch==2.13.0
.venv-full/.ready: requirements/full.txt pyproject.toml | $(VENV)/.dev
	$(PYTHON) -m venv .venv-full
	$(BIN)/uv pip install --quiet --no-deps --require-hashes --python .venv-full -r requirements/full.txt
	.venv-full/bin/python -m pip --disable-pip-version-check install --quiet "$(TORCH)"
	.venv-full/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation -e .
	touch $@

# All that is used to work on aisle is four gigabytes: uv, which pip installs, gets them side by side and keeps them.
$(VENV)/.dev: requirements/dev.txt requirements/image.txt pyproject.toml | $(BIN)/python
	$(PIP) --require-hashes -r requirements/image.txt
	$(BIN)/uv pip install --quiet --require-hashes --python $(VENV) -r requirements/dev.txt
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@
