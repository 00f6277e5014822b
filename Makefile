# Everything from a fresh clone: each target makes .venv itself. Needs make and Python >= 3.11.
PY := .venv/bin/python
# More arguments for the tool behind a target, as in: make test ARGS='-k retries'
ARGS ?=
PORT ?= 10000
export PORT
# Of `make check`: what needs no engine, database or browser, and seconds at most.
CHECKED := -q -n 2 -m 'not (engine or cluster or browser or slow or faults)' \
	tests/unit $(wildcard tests/contracts/test_storage*.py)
# A file's tests share their servers, so a worker gets whole files, in the order of tests/conftest.py.
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder
# COVERAGE=true, as in CI, measures which lines and branches ran. It costs 40 % more CPU time.
MEASURE := $(if $(COVERAGE),--cov --cov-report=)

.PHONY: help demo run check test test-newest faults bench lint screenshots wheel constraints engine-stop clean
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/run.stamp  ## a server, three real jobs, and a table of how they ended
	@$(PY) -m scripts.demo $(ARGS)

run: .venv/run.stamp  ## serve on http://localhost:10000 (PORT=… for another)
ifeq ($(EXECUTOR)$(DOCKER_HOSTS),)
	@$(PY) -m scripts.engine ensure || \
		echo 'engine    jobs wait until there is one; without: EXECUTOR=process make run'
endif
	@exec $(PY) -m fastlane server --port $(PORT) $(ARGS)

check: lint  ## lint, types, unit tests and the storage contract on SQLite: a minute, nothing needed
	@$(PY) -m pytest $(CHECKED) $(ARGS)

test: .venv/dev.stamp  ## every test, with a real engine, Redis, MongoDB and browser
	@$(PY) -m scripts.services
	@status=0; $(PY) -m pytest $(WORKERS) $(MEASURE) --durations 10 -m 'not faults' $(ARGS) || status=$$?; \
	if [ -n "$(MEASURE)" ]; then \
		echo "coverage  $$($(PY) -m coverage report --format=total) % of lines and branches"; \
	fi; exit $$status

test-newest: .venv/dev.stamp  ## what make check tests, on the newest Python that Debian has
	@$(PY) -m scripts.newest $(CHECKED) $(ARGS)

faults: .venv/dev.stamp  ## the long fault runs and their scoreboard (ARGS='--scale 0.1')
	@$(PY) -m scripts.services
	@$(PY) -m pytest -m 'faults or scoreboard' $(ARGS)

bench: .venv/dev.stamp  ## the numbers, next to the bare engine in the same run
	@$(PY) -m scripts.services engine stores
	@$(PY) -m benchmarks $(ARGS)

lint: .venv/dev.stamp  ## ruff, mypy strict, import-linter
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

screenshots: .venv/dev.stamp  ## a picture of each page, in .run/screenshots (ARGS=--docs renews the documentation)
	@$(PY) -m scripts.services browser
	@$(PY) -m scripts.screenshots $(ARGS)

wheel: .venv/dev.stamp  ## build the wheels, install them elsewhere and try them
	@$(PY) -m scripts.check_wheel

constraints: .venv/dev.stamp  ## pin the newest versions of all packages in constraints.txt
	@sh scripts/constraints.sh

engine-stop:  ## end the Docker engine that demo or test started
	@$(PY) -m scripts.engine stop

clean:  ## remove what the targets made, .venv too
	rm -rf .coverage* .venv .run build dist *.egg-info client/build client/*.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

.venv/run.stamp: setup.cfg client/setup.cfg pyproject.toml constraints.txt scripts/venv.sh
	@sh scripts/venv.sh run

.venv/dev.stamp: setup.cfg client/setup.cfg pyproject.toml constraints.txt scripts/venv.sh
	@sh scripts/venv.sh dev
