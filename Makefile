PYTHON ?= python

.PHONY: all lint types test oldest docs coverage help

all: lint types test docs  ## Everything that CI runs

lint:  ## Style, likely mistakes, the direction of imports, dependencies that are not declared
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	lint-imports --no-cache
	$(PYTHON) -m deptry .

types:  ## Static types, strict
	$(PYTHON) -m mypy

test:  ## All tests, two files at a time
	$(PYTHON) -m pytest -n 2 --dist loadfile --durations=25

# Files of tests over scripted engines, for what LangGraph stores and gives back; none of them loads a model.
SCRIPTED = $(patsubst %,tests/test_%.py,nested_calls find state interrupted evidence review schema_versions display)

oldest:  ## Tests with the oldest dependencies that pyproject.toml allows (of a graph, and SQLite's), in an environment of its own
	rm -rf .venv-oldest && $(PYTHON) -m venv .venv-oldest
	sed -nE -e '/^dependencies/,/^]/s/^ *"([a-z0-9-]+)>=([0-9.]+).*/\1==\2/p' \
		-e 's/^ *"(langgraph-checkpoint-sqlite)>=([0-9.]+).*/\1==\2/p' pyproject.toml > .venv-oldest/floors.txt
	cat .venv-oldest/floors.txt
	.venv-oldest/bin/pip install -q -e ".[cli,postgres,signing]" -r .venv-oldest/floors.txt hypothesis psutil pytest pytest-asyncio pytest-benchmark pytest-socket pytest-xdist
	.venv-oldest/bin/python -m pytest -n 2 --dist loadfile -q -p no:anyio -p no:cacheprovider $(SCRIPTED)

docs:  ## The documentation as a site, in the folder site
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

coverage:  ## All tests with branch coverage of the package and the stages
	$(PYTHON) -m pytest -n 2 --dist loadfile --cov --cov-report=term

help:  ## This list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/'
