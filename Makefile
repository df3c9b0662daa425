PYTHON ?= python

.PHONY: all lint types test help

all: lint types test  ## Everything that CI runs

lint:  ## Style and likely mistakes
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types:  ## Static types, strict
	$(PYTHON) -m mypy

test:  ## All tests, two files at a time, with branch coverage of the package and the stages
	$(PYTHON) -m pytest -n 2 --dist loadfile --durations=25 --cov --cov-report=term

help:  ## This list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/'
