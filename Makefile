PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The versions that were last tested; `make test CONSTRAINTS=` takes the newest ones instead.
CONSTRAINTS ?= constraints.txt
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))

.PHONY: demo test examples sanitize soak lint bench docs picture dist check-dist constraints dev clean

demo: $(VENV)/.installed
	$(BIN)/python -m bulkpull.sandbox.demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 4 --dist worksteal # many of them wait, for sockets and processes

examples: $(VENV)/.installed-examples # those whose libraries are large; `make test` runs the others
	$(BIN)/python -m pytest tests/examples/heavy.py

sanitize: $(VENV)/.installed-test # the tests of the kernel, compiled with sanitizers
	$(BIN)/python -m tools.sanitize

soak: $(VENV)/.installed-test
	BULKPULL_SEEDS=1000 BULKPULL_ODD_SEEDS=1000 $(BIN)/python -m pytest -n 4 --dist worksteal tests/simulation
	BULKPULL_EXAMPLES=1000 $(BIN)/python -m pytest -n 4 --dist worksteal tests/rows tests/planning tests/pacing tests/pull
	BULKPULL_EXAMPLES=1000 $(BIN)/python -m pytest -n 4 --dist worksteal tests/tables/test_histories.py
	$(BIN)/python -m pytest tests/benchmarks/transfer.py
	$(BIN)/python -m tests.soak
	$(BIN)/python -m pytest tests/report/chromium.py # needs Chromium
	$(BIN)/python -m tests.servers.soak
	$(BIN)/python -m tests.sync.soak
	$(BIN)/python -m pytest tests/cluster/commands.py
	$(BIN)/python -m tests.cluster.soak

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	@command -v $(CC) > /dev/null || echo "No C compiler: the C source is not checked."
	! command -v $(CC) > /dev/null || $(CC) -std=c11 -fsyntax-only -Wall -Wextra -Werror -DPy_LIMITED_API=0x030B0000 \
		-isystem "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')" bulkpull/rows/_kernel.c

bench: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/orchestration.py --plot benchmarks/data/orchestration.svg
	$(BIN)/python benchmarks/eta.py
	$(BIN)/python benchmarks/skewed.py
	$(BIN)/python benchmarks/pull.py
	$(BIN)/python benchmarks/merge.py
	$(BIN)/python benchmarks/quota.py
	$(BIN)/python benchmarks/killed.py
	$(BIN)/python benchmarks/transfer.py
	$(BIN)/python benchmarks/transfer.py --size narrow --only "bulkpull,polars from links,aria2 + polars,aria2 + cat"
	$(BIN)/python benchmarks/transfer.py --size wide --only "bulkpull,polars from links,aria2 + polars,aria2 + cat"
	$(BIN)/python benchmarks/transfer.py --tls --only "bulkpull,aria2 + cat,curl + cat"
	$(BIN)/python benchmarks/large_file.py
	$(BIN)/python benchmarks/memory.py --sizes small,medium --plot benchmarks/data/memory.svg

docs: $(VENV)/.installed-docs # into build/site
	$(BIN)/python -m tools.build_docs

picture: $(VENV)/.installed-docs # docs/assets/demo.svg
	$(BIN)/python -m tools.picture

dist: $(VENV)/.installed-dist # the sdist, and the wheel that is built from it
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/python -m twine check --strict dist/*

check-dist: dist # installs the wheel into a virtual environment of its own, and pulls with it
	$(BIN)/python -m tools.check_dist $(CONSTRAINTS)

dev: $(VENV)/.installed-dev
	$(BIN)/pre-commit install

# The newest versions of everything, in an environment of their own. Run the tests with them before committing.
constraints:
	rm -rf build/newest
	$(PYTHON) -m venv build/newest
	build/newest/bin/python -m pip install --quiet --no-compile --disable-pip-version-check --upgrade 'pip>=25.1'
	build/newest/bin/python -m pip install --quiet --no-compile --disable-pip-version-check --editable '.[parquet,sandbox-s3]' --group dev
	echo '# The versions that were tested, on Python 3.11. Made by `make constraints`.' > constraints.txt
	build/newest/bin/python -m pip freeze --all --exclude pip --exclude-editable >> constraints.txt

clean:
	rm -rf $(VENV) build dist *.egg-info bulkpull/rows/*.so .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis demo benchmarks/data

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Dependency groups take pip 25.1, which the venv module of Python 3.11 to 3.13 may not bring.
$(VENV)/.pip: | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --upgrade 'pip>=25.1'
	touch $@

# A stamp is younger than what it was installed from: a changed pyproject.toml installs again. The old kernel is removed,
# since without a compiler, or with an error in the source, the new one is left out.
$(VENV)/.installed: pyproject.toml setup.py bulkpull/rows/_kernel.c $(CONSTRAINTS) $(VENV)/.pip
	rm -f bulkpull/rows/*.so
	$(INSTALL) --editable .
	@$(BIN)/bulkpull --version
	touch $@

$(VENV)/.installed-%: pyproject.toml $(CONSTRAINTS) $(VENV)/.pip | $(VENV)/.installed
	$(INSTALL) --group $*
	touch $@
