# FedGlia: two commands for a newcomer (make demo, make test), four for a developer.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
RUN ?= runs/demo

.PHONY: setup demo test check lint types contracts bench federation chaos edge wheelhouse format clean

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
check: edge lint types contracts test
	$(BIN)/python -m pytest -q -m slow

bench: .venv/.user edge
	$(BIN)/python -m simulation.bench

# Edge, hub and three sites as real processes on this machine: a small plan, from nothing to the report.
federation: .venv/.user edge
	$(BIN)/python -m simulation.rehearsal.cli federation --out runs/federation

# The same with faults injected, one after the other.
chaos: .venv/.user edge
	$(BIN)/python -m simulation.rehearsal.cli chaos --out runs/chaos

# A hub's edge is nginx. Where it is missing and we may, as in a container, it is installed from the distribution.
edge:
	@command -v nginx >/dev/null || test -x /usr/sbin/nginx || { \
	  echo "installing nginx-light, a hub's edge"; \
	  { test "$$(id -u)" = 0 && { apt-get install -y -q nginx-light || { apt-get update -q && apt-get install -y -q nginx-light; }; }; } >/dev/null 2>&1 \
	  || echo "nginx is missing and could not be installed: as root, apt-get install nginx-light"; }

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
