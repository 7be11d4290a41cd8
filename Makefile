PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test soak lint bench clean

demo: $(VENV)/.installed
	$(BIN)/python -m bulkpull.sandbox.demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 4 --dist worksteal # many of them wait, for sockets and processes

soak: $(VENV)/.installed-test
	BULKPULL_SEEDS=1000 BULKPULL_ODD_SEEDS=1000 $(BIN)/python -m pytest -n 4 --dist worksteal tests/simulation
	$(BIN)/python -m tests.soak
	$(BIN)/python -m tests.servers.soak

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/orchestration.py --plot benchmarks/data/orchestration.svg
	$(BIN)/python benchmarks/skewed.py
	$(BIN)/python benchmarks/pull.py
	$(BIN)/python benchmarks/merge.py
	$(BIN)/python benchmarks/quota.py
	$(BIN)/python benchmarks/killed.py
	$(BIN)/python benchmarks/transfer.py
	$(BIN)/python benchmarks/transfer.py --tls --only "bulkpull,aria2 + cat,curl + cat"
	$(BIN)/python benchmarks/large_file.py
	$(BIN)/python benchmarks/memory.py --sizes small,medium --plot benchmarks/data/memory.svg

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis demo benchmarks/data

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The stamp is younger than what it installed from; a changed pyproject installs again.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

$(VENV)/.installed-bench: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	touch $@

# mypy reads the tests and the benchmarks too, so their imports are needed as well.
$(VENV)/.installed-lint: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,lint]'
	touch $@
