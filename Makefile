# Every target sets itself up: it needs python3 (3.10 or newer, with venv), make, git and a network or
# a local package folder that pip knows of. Nothing is installed outside .venv.

PYTHON ?= python3
PY := .venv/bin/python
CXX_SOURCES := $(wildcard sparselinear/kernels/csrc/*.cpp sparselinear/kernels/csrc/*.h bench/*.cpp)

.DEFAULT_GOAL := help
.PHONY: help demo test lint format docs bench clean venv

help:  ## list the targets
	@echo "targets (PYTHON=$(PYTHON) makes .venv):"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: venv  ## run the demonstration: septic acute kidney injury
	$(PY) examples/septic_aki.py

# Threads that wait for work sleep: there are as many of each process as there are cores.
test: venv  ## run the tests, in up to 4 processes; ARGS="-k name" passes options on
	OMP_WAIT_POLICY=PASSIVE $(PY) -m pytest tests -n auto --maxprocesses 4 --dist worksteal $(ARGS)

lint: venv  ## check style, format and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	.venv/bin/clang-format --dry-run --Werror $(CXX_SOURCES)
	$(PY) -m mypy

format: venv  ## rewrite the sources in the agreed format
	$(PY) -m ruff check --fix-only .
	$(PY) -m ruff format .
	.venv/bin/clang-format -i $(CXX_SOURCES)

docs: venv  ## build the documentation into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

bench: venv  ## run the benchmarks, with the peers from PyPI; ARGS passes options on
	$(PY) -m pip --disable-pip-version-check install -qq -c constraints.txt -e '.[bench]'
	@status=0; $(PY) -m bench $(ARGS) || status=1; \
	for part in overhead compiled advice models roofline; do $(PY) -m bench.$$part || status=1; done; exit $$status

clean:  ## remove .venv and all that was built
	rm -rf .venv .venv.lock build dist site *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Asked for by every target, and quick when there is nothing to do. .ci/venv.py installs again only when
# pyproject.toml or constraints.txt changed, or when the last install did not come to its end.
venv:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "$(PYTHON) was not found: install Python 3.10 or newer, or name one: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) .ci/venv.py .venv
