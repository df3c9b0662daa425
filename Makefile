PYTHON ?= python

.PHONY: all lint types test help

all: lint types test  ## Everything that CI runs

lint:  ## Style and likely mistakes
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types:  ## Static types, strict
	$(PYTHON) -m mypy

test:  ## All tests, with branch coverage of the package and the stages
	$(PYTHON) -m pytest --cov --cov-report=term

help:  ## This list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/'
