PYTHON ?= python

.PHONY: all lint types test docs coverage help

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

docs:  ## The documentation as a site, in the folder site
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

coverage:  ## All tests with branch coverage of the package and the stages
	$(PYTHON) -m pytest -n 2 --dist loadfile --cov --cov-report=term

help:  ## This list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/'
