# The verbs of this project. The first use of one makes .venv and installs what it needs.
PYTHON ?= python3.11
BIN := .venv/bin
E2E := tests/e2e

.PHONY: demo test lint format autobahn bench simulate clean

demo: .venv/.ready  ## the main job as a story: a cluster, a client, a node that dies
	$(BIN)/tidegate demo

test: .venv/.ready-dev .venv-sslyze/.ready $(E2E)/node_modules/.ready  ## all tests, the real deepstream among them
	$(BIN)/pytest -q

lint: .venv/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

autobahn: .venv/.ready-dev  ## all of Autobahn's cases beside the same without the proxy; ONLY='9.*,12.1.3'
	$(BIN)/python -m tests.autobahn $(if $(ONLY),--only '$(ONLY)')

bench: .venv/.ready-bench  ## beside nginx and others; ONLY=pingpong,connect for some scenarios
	$(BIN)/python -m bench $(if $(ONLY),--only $(ONLY)) $(ARGS)

simulate: .venv/.ready-bench  ## bad days of 20 nodes, beside nginx's and HAProxy's rules; ONLY=a,e
	$(BIN)/python -m bench.simulation $(if $(ONLY),--only $(ONLY)) $(ARGS)

format: .venv/.ready-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-sslyze $(E2E)/node_modules bench/build bench/.venv-*

.venv/.ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/.ready-dev: .venv/.ready
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/pip install --quiet --disable-pip-version-check --group dev
	touch $@

.venv/.ready-bench: .venv/.ready-dev
	$(BIN)/pip install --quiet --disable-pip-version-check --group bench
	touch $@

.venv-sslyze/.ready: pyproject.toml
	test -x .venv-sslyze/bin/python || $(PYTHON) -m venv .venv-sslyze
	.venv-sslyze/bin/pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	.venv-sslyze/bin/pip install --quiet --disable-pip-version-check --group sslyze
	touch $@

# Without npm the tests that drive the real deepstream are skipped (and fail where CI is set).
$(E2E)/node_modules/.ready: $(E2E)/package-lock.json
	@if command -v npm >/dev/null; then cd $(E2E) && npm ci --no-audit --no-fund --loglevel=error && touch node_modules/.ready; \
	else echo "npm is not installed: the tests in $(E2E) will be skipped"; fi
