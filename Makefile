# Two commands do everything on a fresh Linux machine: `make train` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
WITH_TOOLS := PATH="$(abspath $(BIN)):$$PATH"
STAMP  := $(VENV)/.installed
# The kernels are a folder of another name than their package; type checkers find both through these links.
TYPES  := build/types
# What pyproject.toml builds with, quoted for the shell.
BUILD  := $(shell sed -n 's/^requires = \[\(.*\)\]/\1/p' pyproject.toml | tr -d ,)

.PHONY: help install train test fuzz fuzz-files torture soak sanitize test-lowest test-newest check format results gpu wheel site clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

install: $(STAMP)  ## virtual environment with fastlift and its tools (again only when the packaging changes)

$(STAMP): pyproject.toml setup.py CMakeLists.txt $(wildcard kernels/*/*.cpp kernels/*/*.h)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(BUILD)
	$(WITH_TOOLS) $(BIN)/python -m pip install --quiet --no-build-isolation -e '.[dev,dali]'
	touch $@

train: install  ## fine-tune on the embedded data set, and print what came out
	$(BIN)/fastlift train

fuzz: install  ## property tests with new draws, FASTLIFT_FUZZ_SECONDS (60) for each; prints what failed as cases to add
	FASTLIFT_FUZZ_SECONDS=$${FASTLIFT_FUZZ_SECONDS:-60} $(BIN)/python -m pytest -n auto -q -m hypothesis

# Tests run in an order that is drawn anew; SEED=... repeats one.
SEED ?= $(shell date +%s)

test: install  ## the whole test suite, in parallel, in random order
	$(BIN)/python -m pytest -n auto --dist worksteal -q --randomly-seed=$(SEED)

# The two ends of the declared ranges, each in an environment of its own; PYTHON=... chooses the interpreter.
END = .venv-$(subst test-,,$@)-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
test-lowest: CHOICE := --resolution lowest-direct
test-newest: CHOICE := --prerelease allow

test-lowest:  ## the suite on the lowest version of every dependency that pyproject.toml allows
test-newest:  ## the suite on the newest versions, pre-releases among them
test-lowest test-newest:
	$(PYTHON) -m venv $(END)
	$(END)/bin/python -m pip install --quiet --upgrade uv
	$(END)/bin/uv pip install --quiet --python $(END)/bin/python --upgrade $(CHOICE) $(BUILD)
	$(END)/bin/uv pip install --quiet --python $(END)/bin/python --upgrade $(CHOICE) --no-build-isolation \
		--reinstall-package fastlift -e '.[test,dali]'
	FASTLIFT_VERSIONS=$(subst test-,,$@) $(END)/bin/python -m pytest -n auto --dist worksteal -q

torture: install  ## kills, full disks, signals, flipped bits: an hour, resumable (a few of them are in `make test`)
	$(BIN)/python -m tests.torture

soak: install  ## train, evaluate and predict for an hour: memory, threads and open files stay constant
	$(BIN)/python -m tests.torture.soak

fuzz-files: install  ## coverage-guided fuzzing of everything that reads files, a minute each
	$(BIN)/python -m pip install --quiet --no-build-isolation -e '.[fuzz]'
	$(BIN)/python -m tests.fuzz

sanitize: install  ## the native library under address and undefined-behaviour sanitizers: its tests, and random shapes
	$(WITH_TOOLS) cmake --preset asan -G Ninja
	$(WITH_TOOLS) cmake --build --preset asan
	$(WITH_TOOLS) ctest --preset asan --no-tests=error

check: install  ## format, lint and types, without changing anything
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	mkdir -p $(TYPES)
	ln -sfn ../../fastlift $(TYPES)/fastlift
	ln -sfn ../../kernels $(TYPES)/fastlift_kernels
	MYPYPATH=$(TYPES) $(BIN)/mypy -p fastlift -p fastlift_kernels

format: install  ## put code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

results: install  ## the findings of the paper on the embedded data set, three seeds (about half an hour)
	$(BIN)/python -m benchmarks.findings

# Nothing is installed for it: a machine with a GPU may be offline, and what it has is enough (benchmarks/gpu/README.md).
OUTPUT ?= build/gpu
BUDGET ?= 300
gpu:  ## check and time everything that uses a GPU, on this machine's: OUTPUT=build/gpu BUDGET=300 (seconds)
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu --output $(OUTPUT) --budget $(BUDGET)

wheel: install  ## dist/: a wheel with the kernels for any Linux since 2018, and the sources; built, tagged and checked
	rm -rf dist build/dist
	$(BIN)/python -m build --outdir build/dist
	mkdir -p dist
	# OpenMP's library is torch's, under the name that the kernels ask for: a copy of our own would be a second runtime.
	$(WITH_TOOLS) $(BIN)/auditwheel repair --exclude libgomp.so.1 --wheel-dir dist build/dist/*.whl
	mv build/dist/*.tar.gz dist/
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

site: export NO_MKDOCS_2_WARNING = 1
site: install  ## the documentation with the API as web pages, in build/site
	$(BIN)/python -m mkdocs build --strict

clean:  ## remove what was built, not the environment
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -exec rm -rf {} +
