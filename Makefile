# FedGlia: two commands for a newcomer (make demo, make test), four for a developer.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
RUN ?= runs/demo

.PHONY: setup demo test check lint types contracts bench wheelhouse format clean

setup: .venv/.developer

# What a user needs: the package and its pinned dependencies.
.venv/.user: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

# What a developer needs on top: tests, lint, types, and Flower's own simulation engine (Ray).
.venv/.developer: .venv/.user
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,flower-engine]'
	touch $@

demo: .venv/.user
	$(BIN)/fedglia demo --out $(RUN) --resume

test: .venv/.developer
	$(BIN)/python -m pytest -q -n 2 -m "not slow"

lint: .venv/.developer
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.developer
	$(BIN)/mypy

contracts: .venv/.developer
	$(BIN)/lint-imports

# Lint, types, contracts, then every test, the slow ones last; the test runner's line closes it.
check: lint types contracts test
	$(BIN)/python -m pytest -q -m slow

bench: .venv/.user
	$(BIN)/python -m simulation.bench

# Every package of constraints.txt that a hub or a site needs, as files: for machines that reach no index.
wheelhouse: .venv/.user
	rm -rf build wheelhouse
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check -c constraints.txt -w wheelhouse .
	cd wheelhouse && sha256sum -- *.whl > SHA256SUMS

format: .venv/.developer
	$(BIN)/ruff check --fix --exit-zero .
	$(BIN)/ruff format .

clean:
	rm -rf runs .venv build wheelhouse *.egg-info
