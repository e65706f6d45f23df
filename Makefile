# Every target sets up what it needs, from nothing: `make demo` on a fresh clone is all there is to type.
#   make demo    simulate, reconstruct, fit, analyse and score a hinge protein into ./demo (three minutes)
#   make test    the tests that take seconds, on all cores                       make slow   those that take minutes
#   make check   lint, format, types, floors, dead code                          make docs   the site, docs/_build/html
#   make accept  the tests that need ../shared                                   make clean  remove all that was made
#   make wheel   build it into dist, and check that nothing is missing in it
#   make lowest  install the lowest versions that pyproject.toml allows, and run a smoke test on them
# PYTHON chooses the interpreter (3.11 to 3.13), VENV the folder: make test PYTHON=python3.13 VENV=.venv313

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= auto
# kills and damages that `make slow` tries; 200 take half an hour on two cores
TRIALS ?= 32
# make test COVERAGE=95: measure which lines the tests run, and fail below 95 %
COVERAGE ?=
SHARED := ../shared
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs
PIP := -m pip install --quiet --disable-pip-version-check
# tests of one file share what they have trained
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --hypothesis-seed=0
# without the checks of types and shapes, which double what a training takes
UNCHECKED := --jaxtyping-packages=

# the oldest Python that the lowest versions have wheels for; TORCH= another version, such as one without CUDA
LOWEST ?= .venv-lowest
LOWEST_PYTHON ?= python3.11
TORCH ?=

.PHONY: setup demo test slow check accept docs wheel lowest clean
.DELETE_ON_ERROR:

setup: $(STAMP)

# torch first and alone: where pip's configuration offers a CPU build of the pinned version it is taken
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) -c constraints.txt torch
	$(BIN)/python $(PIP) -c constraints.txt -e '.[dev]'
	touch $@

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python $(PIP) -c constraints.txt -e '.[docs]'
	touch $@

demo: $(STAMP)
	$(BIN)/cryomorph demo -o demo --overwrite

test: $(STAMP)
	$(PYTEST) -m 'not slow and not accept' $(if $(COVERAGE),--cov --cov-report=term:skip-covered --cov-fail-under=$(COVERAGE))

slow: $(STAMP)
	TRIALS=$(TRIALS) $(PYTEST) $(UNCHECKED) -m 'slow and not accept'

check: $(STAMP)
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/vulture

accept: $(STAMP)
	@if [ -d $(SHARED) ]; then \
		$(PYTEST) $(UNCHECKED) -m accept; \
	else \
		echo "skipped: no $(SHARED) next to this checkout"; \
	fi

docs: $(DOCS_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build --fail-on-warning --keep-going --fresh-env docs docs/_build/html

wheel: $(STAMP)
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@$(BIN)/python -m zipfile --list dist/*.whl | cut -d ' ' -f 1 | LC_ALL=C sort > dist/contents
	@missing=$$(find src/cryomorph -type f -not -path '*/__pycache__/*' -printf 'cryomorph/%P\n' | LC_ALL=C sort | \
		LC_ALL=C comm -23 - dist/contents); test -z "$$missing" || { echo "the wheel lacks $$missing"; exit 1; }

$(LOWEST)/.installed: pyproject.toml
	rm -rf $(LOWEST)
	$(LOWEST_PYTHON) -m venv $(LOWEST)
	sed -n '/^dependencies/,/^]/s/.*"\(.*\)>=\(.*\)".*/\1==\2/p' pyproject.toml > $(LOWEST)/lowest.txt
	test -z '$(TORCH)' || sed -i 's/^torch==.*/torch==$(TORCH)/' $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python $(PIP) -r $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python $(PIP) --no-deps -e .
	$(LOWEST)/bin/python -m pip check
	touch $@

lowest: $(LOWEST)/.installed
	.ci/smoke $(LOWEST)/bin/cryomorph

clean:
	rm -rf $(VENV) $(LOWEST) demo docs/_build docs/reference/commands dist
	rm -rf .coverage .coverage.* htmlcov .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +
