# The same targets for people and for CI. Everything is installed into .venv and nowhere else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: quickstart test soak lint package bench gpu pictures docs clean

quickstart: $(STAMP)          ## the main job on real speech, from download to table; FILE=clip.wav for a verdict on it
	$(BIN)/hybrid-pruning quickstart $(if $(FILE),"$(FILE)")

test: $(STAMP)                ## the whole test suite
	$(BIN)/python -m pytest -n 2

soak: $(STAMP)                ## trainings killed at random points, a server loaded for half an hour (SOAK_SECONDS=1800)
	$(BIN)/python -m pytest -m soak -s

lint: $(STAMP)                ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

package: $(STAMP)             ## dist/: source and wheel, checked, and the wheel run in an environment without torch
	rm -rf build dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/python -m pytest -m soak tests/cli/test_without_torch.py

bench: $(STAMP)               ## ratios against what one would use instead, in one run
	$(BIN)/python -m hybrid_pruning.benchmarks

gpu: $(STAMP)                 ## checks and rates on a CUDA device, in eight minutes: docs/speed.md
	$(BIN)/python -m hybrid_pruning.benchmarks --gpu

pictures: $(STAMP)            ## docs/report-*.png of the quickstart's report; needs Chromium
	$(BIN)/python dev/pictures.py quickstart/report.html docs

# torch first and by its exact version: with it in place nothing else asks for another build.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=23.2" "setuptools>=77" wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[quickstart,dev]"
	touch $(STAMP)

docs: $(STAMP)                ## the site of docs/, into site/
	$(BIN)/mkdocs build --strict

clean:                        ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
