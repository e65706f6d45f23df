# Every target sets up what it needs, from nothing: `make demo` on a fresh clone is all there is to type.
#   make demo    simulate, reconstruct, fit, analyse and score a hinge protein into ./demo (three minutes)
#   make test    the tests, with coverage          make check   lint, format, types, floors
#   make accept  the tests that need ../shared     make clean   remove what was made, the environment too
# PYTHON chooses the interpreter (3.11 to 3.13), VENV the folder: make test PYTHON=python3.13 VENV=.venv313

PYTHON ?= python3
VENV ?= .venv
SHARED := ../shared
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test check accept clean
.DELETE_ON_ERROR:

setup: $(STAMP)

# torch first and alone: where pip's configuration offers a CPU build of the pinned version it is taken
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/cryomorph demo -o demo --overwrite

test: $(STAMP)
	$(BIN)/python -m pytest -m 'not accept' --hypothesis-seed=0 \
		--cov --cov-report=term:skip-covered --cov-fail-under=90

check: $(STAMP)
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

accept: $(STAMP)
	@if [ -d $(SHARED) ]; then \
		$(BIN)/python -m pytest -m accept --hypothesis-seed=0; \
	else \
		echo "skipped: no $(SHARED) beside this checkout"; \
	fi

clean:
	rm -rf $(VENV) demo .coverage .coverage.* htmlcov .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf .import_linter_cache
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +
